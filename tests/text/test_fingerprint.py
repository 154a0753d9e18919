"""The facts that must not change when a run is resumed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dlm_sampling import AutoDenoiser, Denoiser
from dlm_sampling.engine.request import BlockRequest
from dlm_sampling.samplers import available
from dlm_sampling.text.fingerprint import encoding_of, settings, weights_digest
from dlm_sampling.text.options import GenerateOptions, LawOptions, prepare


@pytest.fixture
def denoiser(tiny_llada: Path) -> Denoiser:
    return AutoDenoiser.from_pretrained(str(tiny_llada))


def test_every_sampler_is_written_the_same_way_in_every_process() -> None:
    """Without the address of an object, that is."""
    for name, entry in available().items():
        assert " at 0x" not in repr(entry.build()), name
        assert repr(entry.build()) == repr(entry.build())


OPTIONS = GenerateOptions(sampler="ancestral", seed=0, max_new_tokens=4)
CHANGES: list[dict[str, Any]] = [
    {"sampler": "llada"},
    {"law": LawOptions(temperature=0.5)},
    {"blocks": BlockRequest(length=2)},
    {"blocks": BlockRequest(steps=2)},
    {"guidance_scale": 1.0},
    {"eos": "keep"},
    {"eos_token_id": 5},
    {"suppress_tokens": (4,)},
    {"every_step": True},
    {"stop": "x"},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_an_option_that_changes_tokens_changes_the_facts(
    denoiser: Denoiser, change: dict[str, Any]
) -> None:
    before = settings(prepare(denoiser, ["a"], OPTIONS))
    assert before == settings(prepare(denoiser, ["a"], replace(OPTIONS, seed=1)))
    assert before != settings(prepare(denoiser, ["a"], replace(OPTIONS, **change)))


def test_other_weights_are_noticed(denoiser: Denoiser) -> None:
    before, module = weights_digest(denoiser), denoiser.module
    assert module is not None
    assert weights_digest(denoiser) == before
    with torch.no_grad():
        next(module.parameters()).mul_(1.001)
    assert weights_digest(denoiser) != before


def test_how_prompts_are_encoded_is_written_as_plain_values() -> None:
    options = GenerateOptions(
        add_special_tokens=False, chat_template_kwargs={"think": True, "tools": ["a"]}
    )
    assert encoding_of(options) == {
        "add_special_tokens": False,
        "chat_template_kwargs": {"think": True, "tools": "['a']"},
    }
    assert encoding_of(GenerateOptions()) == {
        "add_special_tokens": None,
        "chat_template_kwargs": {},
    }

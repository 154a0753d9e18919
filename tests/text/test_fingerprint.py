"""The facts that must not change when a run is resumed."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dlm_sampling import AutoDenoiser, Denoiser
from dlm_sampling.engine.request import BlockRequest
from dlm_sampling.samplers import available
from dlm_sampling.text import fingerprint
from dlm_sampling.text.fingerprint import checksum, encoding_of, settings, weights_digest
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


def test_one_bit_of_one_weight_is_noticed(denoiser: Denoiser) -> None:
    """Also one that the digest of a rollout passes over, which reads some values of each weight."""
    job = prepare(denoiser, ["a"], OPTIONS)
    before, sampled, module = settings(job), weights_digest(denoiser), denoiser.module
    assert module is not None
    weight = max(module.parameters(), key=lambda weight: weight.numel())
    bits = weight.detach().view(torch.int32).view(-1)
    for place in (1, len(bits) - 1):
        bits[place] ^= 1
        after = settings(job)
        assert {key for key in before if before[key] != after[key]} == {"weights"}
        bits[place] ^= 1
    assert settings(job) == before
    bits[1] ^= 1
    assert weights_digest(denoiser) == sampled, "or this test means nothing"


@pytest.mark.parametrize(
    "dtype",
    [
        torch.float64,
        torch.float32,
        torch.bfloat16,
        torch.float8_e4m3fn,
        torch.bool,
        torch.complex64,
    ],
)
def test_checksum_knows_values_and_their_order(dtype: torch.dtype) -> None:
    values = torch.arange(12).remainder(5).to(dtype)
    assert checksum(values) == checksum(values.clone()) == checksum(values.reshape(3, 4))
    for i, j in ((0, 1), (3, 6), (4, 10)):
        order = list(range(12))
        order[i], order[j] = j, i
        moved = torch.stack([values[k] for k in order])
        assert (checksum(moved) == checksum(values)) == bool(values[i] == values[j])
    assert checksum(values[:0]) == 0


def test_checksum_is_the_sum_of_its_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "RUN", 4)
    words = [7, -3, 2**62, 5, -1, 11]
    m, total = fingerprint.MULTIPLIER, 0
    for run in (words[:4], words[4:]):
        total = total * m + sum(w * ((i * m) | 1) for i, w in enumerate(run, start=1))
    assert (checksum(torch.tensor(words)) - total) % 2**64 == 0


def test_a_constant_of_the_config_is_noticed_and_a_copy_is_not(
    tiny_llada: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_llada, copy)

    def found() -> dict[str, Any]:
        return settings(prepare(AutoDenoiser.from_pretrained(str(copy)), ["a"], OPTIONS))

    before = settings(prepare(AutoDenoiser.from_pretrained(str(tiny_llada)), ["a"], OPTIONS))
    assert found() == before
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"rope_theta": 20000.0}))
    after = found()
    assert {key for key in before if before[key] != after[key]} == {"config"}


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

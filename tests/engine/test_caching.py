"""Which cache policy a run gets, and the combinations that are refused before the first pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dlm_sampling import AutoDenoiser, generate, sample, samplers, wrap
from dlm_sampling.caches import POLICIES, DkvCache, VicinityCache
from dlm_sampling.denoisers import Denoiser

MODELS = Path(__file__).parents[1] / "fixtures" / "models"


def load(folder: str) -> Denoiser:
    return AutoDenoiser.from_pretrained(MODELS / folder)


def refused(denoiser: Denoiser, cache: Any, sampler: str = "llada", **given: Any) -> str:
    """The message of the error; the network must not have run."""
    ran: list[object] = []
    inner = denoiser.forward
    denoiser.forward = lambda inputs: ran.append(inputs) or inner(inputs)  # type: ignore[method-assign,func-returns-value]
    tokens = torch.zeros(1, 8, dtype=torch.int64)
    editable = torch.arange(8).expand(1, 8) >= 2
    try:
        with pytest.raises((ValueError, TypeError)) as caught:
            made = samplers.create(sampler)
            sample(denoiser, made, tokens, editable, seeds=[0], cache=cache, **given)
    finally:
        del denoiser.forward
    assert not ran
    return str(caught.value)


def test_full_attention_has_no_exact_cache() -> None:
    message = refused(load("llada"), "block")
    assert "sees the whole canvas" in message
    names = ", ".join(repr(name) for name in ("none", *POLICIES) if name != "block")
    assert f"cache may be {names}" in message


@pytest.mark.parametrize("cache", sorted(POLICIES))
def test_a_network_without_keys_and_values_has_none(cache: str) -> None:
    bare = wrap(lambda ids: torch.zeros(*ids.shape, 9), vocab_size=9, mask_token_id=8)
    message = refused(bare, cache)
    assert "no access to its keys and values" in message
    assert message.endswith("cache may be 'none'.")


def test_a_sampler_that_writes_again_has_no_policy_that_freezes() -> None:
    message = refused(load("llada"), "dkv", "remdm-llada")
    assert "freezes written tokens, and ReMDMLLaDA may write them again" in message
    assert "'dkv'" not in message.split("Here")[1]


@pytest.mark.parametrize("cache", sorted(POLICIES))
def test_a_sampler_that_reads_the_whole_canvas_has_none(cache: str) -> None:
    assert "outside of the current block" in refused(load("llada"), cache, "klass", block_length=3)


def test_names_and_values_are_checked_at_once() -> None:
    denoiser = load("llada")
    with pytest.raises(ValueError, match=r"cache='dul'.*'dual'"):
        generate(denoiser, [[1]], max_new_tokens=4, cache="dul")
    with pytest.raises(TypeError, match="cache is an int: must be 'auto'"):
        generate(denoiser, [[1]], max_new_tokens=4, cache=3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="left"):
        VicinityCache(left=2.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="every=0: must be at least 1"):
        DkvCache(every=0)


def test_auto_is_none_where_no_cache_is_exact() -> None:
    denoiser = load("llada")
    given: dict[str, Any] = {"max_new_tokens": 8, "steps": 4, "seed": 0}
    auto = generate(denoiser, [[1, 2, 3]], **given)
    none = generate(denoiser, [[1, 2, 3]], cache="none", **given)
    assert torch.equal(auto.tokens, none.tokens)
    assert auto.work.tolist() == none.work.tolist() == [4.0]

"""Particles with keys and values kept: tokens, weights and ancestors are those without a cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from dlm_sampling import samplers
from dlm_sampling.denoisers import Denoiser
from dlm_sampling.guidance import BestOf
from dlm_sampling.smc import (
    RewardTarget,
    TwistedTarget,
    sample_candidates,
    sample_gibbs,
    sample_particles,
)
from tests.caches.test_block import rows, sdar
from tests.prediction.test_cached import MASK, POLICIES, toy

pytestmark = pytest.mark.slow

TARGET = TwistedTarget(lambda x: 0.7 * (x % 5).double().sum(1))


def run(driver: Callable[..., Any], denoiser: Denoiser, cache: Any, **options: Any) -> Any:
    """Two rows with prompts of 9 and 5 tokens, 7 new ones."""
    ids, editable, attention = rows((9, 5))
    return driver(
        denoiser, samplers.create("llada-random"), ids % 38, editable, seeds=(3, 4),
        attention_mask=attention, block_length=4, align_blocks=True, cache=cache, **options,
    )  # fmt: skip


def assert_same(one: Any, other: Any) -> None:
    assert torch.equal(one.tokens, other.tokens)
    assert torch.equal(one.ancestors, other.ancestors)
    torch.testing.assert_close(one.log_weights, other.log_weights, rtol=0, atol=1e-6)
    torch.testing.assert_close(one.log_normalizer, other.log_normalizer, rtol=0, atol=1e-6)
    moved = one.ancestors != torch.arange(one.tokens.shape[1])
    assert moved.any(2).sum() > 4  # rows went on with another's keys, more than once


@pytest.mark.parametrize("name", ["block", *POLICIES])
def test_keys_and_values_follow_their_particles(name: str) -> None:
    """The block cache of a block-causal model, and those of one layer, are exact."""
    denoiser = sdar() if name == "block" else toy(1)
    cache = POLICIES.get(name, name)
    options: dict[str, Any] = {"target": TARGET, "particles": 4, "threshold": 1.0, "every": 2}
    out, plain = (run(sample_particles, denoiser, which, **options) for which in (cache, "none"))
    assert_same(out, plain)
    assert len(out.tokens[0].unique(dim=0)) > 1  # the last step has rows of its own


def test_they_follow_candidates_and_paths_too() -> None:
    choice = BestOf(lambda x: (x % 5).double().sum(1), 3, 0.5, "MC")
    out, plain = (
        run(sample_candidates, toy(1), cache, choice=choice) for cache in ("prefix", "none")
    )
    assert_same(out, plain)
    options: dict[str, Any] = {"target": TARGET, "particles": 3, "sweeps": 2, "threshold": 1.0}
    swept, other = (run(sample_gibbs, toy(1), cache, **options) for cache in ("dkv", "none"))
    assert torch.equal(swept.sweeps, other.sweeps)
    torch.testing.assert_close(swept.log_normalizer, other.log_normalizer, rtol=0, atol=1e-6)


def whole(rows: Tensor) -> Tensor:
    """A reward of finished rows only."""
    assert not bool((rows == MASK).any())
    return (rows % 5).double().sum(1)


def test_rewards_read_whole_rows_in_blocks_too() -> None:
    """No mask of a block to come is left, and a lone particle weighs its reward."""
    target = RewardTarget(whole, draws=1)
    out = run(sample_particles, toy(1), "auto", target=target, particles=1)
    wanted = whole(out.tokens[:, 0])
    torch.testing.assert_close(out.log_normalizer, wanted, rtol=0, atol=1e-9)
    run(sample_candidates, toy(1), "auto", choice=BestOf(whole, 2))
    for name, denoiser in (("prefix", toy(1)), ("block", sdar())):
        words = f"cache='{name}': RewardTarget reads predictions outside of the current block"
        with pytest.raises(ValueError, match=words):
            run(sample_particles, denoiser, name, target=target, particles=1)

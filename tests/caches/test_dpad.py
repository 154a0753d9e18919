"""Suffix dropping: which columns are seen, and what a run without dropping gives."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from dlm_sampling import ops, sample, samplers
from dlm_sampling.caches import DPadCache, View
from tests.prediction.test_cached import assert_same, run, toy

ALL: dict[str, Any] = {"window": 10_000, "decay": 0.0, "scale": 10.0}


@pytest.mark.slow
@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
def test_where_nothing_is_dropped_the_run_is_that_of_the_inner_cache(
    cache: Any, shifted: bool
) -> None:
    denoiser = toy(2, shifted=shifted)
    one, other = run(denoiser, cache), run(denoiser, DPadCache(**ALL, cache=cache))
    assert_same(one, other)
    torch.testing.assert_close(one.work, other.work)
    fewer = run(denoiser, DPadCache(window=2, cache=cache), cache_audit=1.0)
    assert fewer.cache is not None
    assert fewer.cache.kl_max > 1e-3 > 100 * fewer.cache.floor
    assert not torch.allclose(one.logprob, fewer.logprob, atol=1e-3)
    assert bool((fewer.work < one.work).all())


def test_a_block_sees_no_column_that_was_dropped() -> None:
    """Without a suffix the laws are those of a canvas that ends with its block."""
    denoiser = toy(2)
    bare = run(denoiser, DPadCache(window=0))
    hidden = run(denoiser, "none", causal_blocks=True)
    assert torch.equal(bare.tokens, hidden.tokens)
    torch.testing.assert_close(bare.logprob, hidden.logprob, atol=1e-6, rtol=0)
    torch.testing.assert_close(bare.work, hidden.work)


@pytest.mark.slow
def test_a_shift_asks_for_no_column_in_front_of_a_kept_one() -> None:
    policy = DPadCache(window=12, decay=2.0, scale=1.5)
    straight, shifted = (run(toy(1, shifted=shifted), policy) for shifted in (False, True))
    assert torch.equal(straight.nfe, shifted.nfe)
    torch.testing.assert_close(straight.work, shifted.work)


def test_the_columns_of_a_row_do_not_depend_on_the_batch() -> None:
    denoiser, sampler = toy(2), samplers.create("llada")
    ids = torch.randint(0, 38, (3, 17), generator=torch.Generator().manual_seed(1))
    editable = torch.arange(17).expand(3, -1) >= 5
    given: dict[str, Any] = {"block_length": 4, "steps": 6, "cache": DPadCache(window=8)}
    together = sample(denoiser, sampler, ids, editable, seeds=[5, 6, 7], **given)
    assert float(together.work.max()) > float(together.work.min())
    for row in range(3):
        one = slice(row, row + 1)
        alone = sample(denoiser, sampler, ids[one], editable[one], seeds=[5 + row], **given)
        assert torch.equal(alone.tokens[0], together.tokens[row])
        assert float(alone.work[0]) == float(together.work[row])


@pytest.mark.parametrize(
    "wrong", [{"scale": float("nan")}, {"decay": float("inf")}, {"scale": -1.0}]
)
def test_numbers_of_no_density_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be at least 0, and finite"):
        DPadCache(**wrong)


def test_the_number_of_columns_is_that_of_the_paper() -> None:
    """Their mean is within four standard errors of the sum of the chances, about 64."""
    rows, length = 400, 400
    window = (torch.arange(length) < 32).expand(rows, -1)
    rng = ops.Rng.from_seeds(range(rows))
    view = View(~window, window, torch.ones_like(window), window[:, 0], ~window, rng)
    policy = DPadCache()
    kept = policy.drawn(view, torch.ones(rows, dtype=torch.int64))
    offset = torch.arange(256).double()
    share = 2 * torch.exp(-0.5 * (4 * offset / 256) ** 2) / math.sqrt(2 * math.pi)
    assert float(share.sum()) == pytest.approx(64.4, abs=0.1)
    error = float((share * (1 - share)).sum().sqrt()) / math.sqrt(rows)
    assert abs(float(kept.sum(1).double().mean() - share.sum())) < 4 * error
    assert not bool(kept[:, :32].any() | kept[:, 32 + 256 :].any())
    again = policy.drawn(view, torch.full((rows,), 2))
    assert not torch.equal(kept, again)  # another block, other columns

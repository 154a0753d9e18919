"""The adaptive refresh: never without drift, in every second pass at bound 0, else between."""

from __future__ import annotations

import math

import pytest
import torch

from dlm_sampling.caches import AdaptiveCache
from tests.prediction.test_cached import assert_same, run, toy


def test_with_one_layer_nothing_drifts() -> None:
    denoiser = toy(1)
    adaptive = run(denoiser, AdaptiveCache(bound=1e-9), steps=12)
    assert_same(run(denoiser, "none", steps=12), adaptive)
    torch.testing.assert_close(adaptive.work, run(denoiser, "dual", steps=12).work)


@pytest.mark.slow
def test_the_bound_decides_how_often_all_columns_are_computed() -> None:
    """Three blocks of four passes: all, block, all, block at bound 0."""
    denoiser = toy(2)
    dual = run(denoiser, "dual", steps=12)
    never = run(denoiser, AdaptiveCache(bound=math.inf), steps=12)
    assert_same(dual, never)
    torch.testing.assert_close(dual.work, never.work)
    often = run(denoiser, AdaptiveCache(bound=0.0), steps=12, cache_audit="refresh")
    assert float(often.work[0]) == pytest.approx(3 * (2 + 2 * 4 / 17))
    some = run(denoiser, AdaptiveCache(bound=0.2), steps=12)
    assert float(dual.work.sum()) < float(some.work.sum()) < float(often.work.sum())
    assert often.cache is not None
    assert len(often.cache.where(replaced=True).kl) > 0


@pytest.mark.parametrize("bound", [-1.0, float("nan")])
def test_a_bound_below_zero_is_refused(bound: float) -> None:
    with pytest.raises(ValueError, match="must be at least 0"):
        AdaptiveCache(bound=bound)

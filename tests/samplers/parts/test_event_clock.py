"""Uniformization is exact; Gillespie's algorithm is on masks, and close under uniform noise."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from dlm_sampling import ops
from dlm_sampling.engine.sample import SampleOutput, sample
from dlm_sampling.processes import Absorbing, Uniform, conversions
from dlm_sampling.samplers import Gillespie, Uniformization
from dlm_sampling.schedules import LOG_LINEAR, HalfCosine, LogLinear
from dlm_sampling.testing import (
    EnumerableDenoiser,
    NoisyEnumerableDenoiser,
    chi_square,
    count_states,
    tv,
)
from dlm_sampling.types import PredictionKind

LENGTH, SYMBOLS, P_LIMIT = 2, 3, 1e-4


def joint(length: int = LENGTH, scale: float = 1.2) -> Tensor:
    weights = torch.randn([SYMBOLS] * length, generator=torch.Generator().manual_seed(3))
    return (scale * weights.double()).flatten().softmax(0).view_as(weights)


def run(toy: Any, sampler: Any, rows: int, length: int = LENGTH) -> SampleOutput:
    tokens = torch.zeros(rows, length, dtype=torch.int64)
    return sample(toy, sampler, tokens, tokens == 0, seeds=ops.row_seeds(4, rows))


@pytest.mark.parametrize("sampler", [Uniformization(), Gillespie(schedule=HalfCosine(0.01))])
def test_masks_are_sampled_exactly_with_one_pass_per_token(sampler: Any) -> None:
    out = run(EnumerableDenoiser(joint(3)), sampler, 6_000, 3)
    assert chi_square(count_states(out.tokens, SYMBOLS), joint(3).flatten()).p > P_LIMIT
    assert 2.9 < float(out.nfe.double().mean()) <= 3.0
    assert int(out.nfe.max()) == 3


@pytest.mark.parametrize("sampler", [Uniformization(), Gillespie(schedule=HalfCosine(0.01))])
@pytest.mark.parametrize("block", [None, 2])
def test_a_block_on_masks_ends_with_its_last_token(sampler: Any, block: int | None) -> None:
    """No step is taken for events that could change nothing more."""
    tokens = torch.zeros(20, 4, dtype=torch.int64)
    seeds = ops.row_seeds(4, 20)
    toy = EnumerableDenoiser(joint(4))
    out = sample(toy, sampler, tokens, tokens == 0, seeds=seeds, block_length=block)
    assert out.steps.tolist() == out.nfe.tolist() == [4] * 20


@pytest.mark.parametrize("kind", ["posterior", "leave_one_out", "log_score"])
def test_uniform_noise_is_reversed_exactly(kind: PredictionKind) -> None:
    """From a law of x_1 that is uniform up to alpha(1) = 1e-3, to the data law."""
    out = run(NoisyEnumerableDenoiser(joint(), kind=kind), Uniformization(), 2_000)
    assert chi_square(count_states(out.tokens, SYMBOLS), joint().flatten()).p > P_LIMIT
    process, ends = Uniform(), [torch.tensor(a).double() for a in (1e-3, 1 - 1e-5 * (1 - 1e-3))]
    expected = LENGTH * float(process.exit_integral(ends[0], ends[1], SYMBOLS)) + 1
    mean = float(out.nfe.double().mean())
    assert abs(mean - expected) < 5 * math.sqrt(expected / 2_000)


def test_a_wrong_bound_would_be_seen() -> None:
    """Negative control: candidates at half the rate leave noise behind."""

    class Half(Uniform):
        def exit_integral(self, alpha_t: Tensor, alpha_s: Tensor, size: int) -> Tensor:
            return 0.5 * super().exit_integral(alpha_t, alpha_s, size)

    toy = NoisyEnumerableDenoiser(joint(), process=Half())
    out = run(toy, Uniformization(t_end=1e-2), 4_000)
    assert chi_square(count_states(out.tokens, SYMBOLS), joint().flatten()).p < 1e-8


@pytest.mark.parametrize("alpha", [0.01, 0.4, 0.95])
def test_the_bound_holds_and_is_attained(alpha: float) -> None:
    process, size = Uniform(), 5
    a, slope = torch.tensor(alpha).double(), torch.tensor(0.7).double()
    bound = process.exit_bound(a, slope, size)
    loo = torch.rand(2000, size, generator=torch.Generator().manual_seed(0)).double() ** 8
    loo[0] = torch.tensor([0.0, 1.0, 0.0, 0.0, 0.0])
    loo /= loo.sum(1, keepdim=True)
    x = torch.zeros(2000, dtype=torch.int64)
    score = conversions.score_from_leave_one_out(loo, x, a)
    leaving = process.rates(score, x, a.expand(2000), slope.expand(2000)).sum(1)
    assert bool((leaving <= bound * (1 + 1e-12)).all())
    torch.testing.assert_close(leaving[0], bound)
    one = torch.tensor(0.5).double()
    masks = Absorbing(4)
    torch.testing.assert_close(
        masks.exit_integral(a, one * 0 + 0.97, 5), torch.log((1 - a) / (1 - one * 0 - 0.97))
    )


def test_frozen_rates_converge_with_the_longest_wait() -> None:
    toy = NoisyEnumerableDenoiser(joint())
    errors: list[float] = []
    for wait in (math.inf, 0.5, 0.1):
        counts = count_states(run(toy, Gillespie(longest_wait=wait), 4_000).tokens, SYMBOLS)
        errors.append(tv(counts / counts.sum(), joint().flatten()))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.04


def test_k_events_at_a_time_cost_a_kth_on_masks() -> None:
    toy = EnumerableDenoiser(joint(4))
    out = run(toy, Gillespie(events_per_step=2, schedule=LogLinear(0.0)), 500, 4)
    assert int(out.nfe.max()) <= 3
    assert float(out.nfe.double().mean()) < 2.2


@pytest.mark.parametrize("sampler", [Uniformization(LOG_LINEAR, 0.3), Gillespie(t_end=0.3)])
def test_an_early_end_writes_everything_from_the_posterior(sampler: Any) -> None:
    for toy in (EnumerableDenoiser(joint()), NoisyEnumerableDenoiser(joint())):
        out = run(toy, sampler, 200)
        assert bool(((out.tokens >= 0) & (out.tokens < SYMBOLS)).all())

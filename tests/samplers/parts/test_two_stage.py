"""The theta methods without a mask: `sample` draws their exact law, and its order is what it is."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dlm_sampling import ops, wrap
from dlm_sampling.engine.sample import sample
from dlm_sampling.processes import RateMatrix, Uniform
from dlm_sampling.processes.jumps import last_event_law
from dlm_sampling.processes.matrices import gaussian_rates
from dlm_sampling.samplers import ThetaRK2, ThetaTrapezoidal
from dlm_sampling.samplers.parts.two_stage import ClockName, TwoStage
from dlm_sampling.schedules import LINEAR, LOG_LINEAR, LogLinear, grid_time
from dlm_sampling.testing import (
    NoisyEnumerableDenoiser,
    chi_square,
    count_states,
    product_law,
    tv,
)
from dlm_sampling.testing.laws import all_states
from dlm_sampling.types import PredictionKind, Process

LENGTH, SYMBOLS, ROWS, P_LIMIT = 2, 3, 8_000, 1e-4
STATES = all_states(LENGTH, SYMBOLS)


def joint(scale: float = 1.2) -> Tensor:
    weights = torch.randn([SYMBOLS] * LENGTH, generator=torch.Generator().manual_seed(3))
    return (scale * weights.double()).flatten().softmax(0).view_as(weights)


def final_law(toy: NoisyEnumerableDenoiser, sampler: TwoStage, intervals: int) -> Tensor:
    """Both stages summed over every x*, from the laws of the process alone."""
    process, number = toy.process, torch.tensor(intervals)

    def values(x: Tensor, t: Tensor) -> Tensor:
        alpha = sampler.schedule.alpha(t)
        loo = toy(x, t=toy.times.time_of(alpha).expand(len(x))).values.exp()
        return process.convert(loo, x, alpha, "leave_one_out", process.rates_read)

    def rates(x: Tensor, t: Tensor) -> Tensor:
        return sampler.clock_rates(process, values(x, t), x, t.expand(x.shape))

    prior = getattr(process, "prior_law", torch.full((SYMBOLS,), 1 / SYMBOLS).double())
    law = product_law(prior.expand(1, LENGTH, SYMBOLS))[0]
    for k in range(intervals):
        t, s = (grid_time(torch.tensor(i), number, sampler.t_end) for i in (k, k + 1))
        interval = sampler.interval_of_noise(t, s)
        at_x = rates(STATES, t)
        middle = product_law(last_event_law(at_x, STATES, sampler.theta * interval.window))
        after = torch.zeros_like(law)
        for i, x in enumerate(STATES):
            stars = rates(STATES, interval.middle)
            mixed = sampler.rates(at_x[i].expand_as(stars), stars)
            begin = x.expand_as(STATES) if sampler.restarts else STATES
            second = product_law(last_event_law(mixed, begin, sampler.second_window(interval)))
            after += law[i] * (middle[i] @ second)
        law = after
    alpha = sampler.schedule.alpha(torch.tensor(sampler.t_end).double())
    loo = toy(STATES, t=toy.times.time_of(alpha).expand(len(STATES))).values.exp()
    return law @ product_law(process.reverse(loo, STATES, alpha, torch.ones_like(alpha)))


CASES: list[tuple[TwoStage, PredictionKind, Process]] = [
    (ThetaTrapezoidal(noise_removal="sample"), "leave_one_out", Uniform()),
    (ThetaTrapezoidal(0.3, LOG_LINEAR, 1e-2, "sample", "time"), "log_score", Uniform()),
    (ThetaRK2(0.4, LOG_LINEAR, 1e-2, "sample", "time"), "posterior", Uniform()),
    (ThetaRK2(noise_removal="sample"), "leave_one_out", RateMatrix(gaussian_rates(SYMBOLS, 1.5))),
    (
        ThetaTrapezoidal(0.4, LogLinear(0.01), 1e-2, "sample"),
        "posterior",
        RateMatrix(gaussian_rates(SYMBOLS, 1.5)),
    ),
]


@pytest.mark.parametrize(("sampler", "kind", "process"), CASES)
def test_the_sampled_law_is_the_law_of_both_stages(
    sampler: TwoStage, kind: PredictionKind, process: Process
) -> None:
    toy = NoisyEnumerableDenoiser(joint(), kind=kind, process=process)
    tokens = torch.zeros(ROWS, LENGTH, dtype=torch.int64)
    seeds = ops.row_seeds(7, ROWS)
    out = sample(toy, sampler, tokens, tokens == 0, seeds=seeds, steps=6)
    assert bool((out.nfe == 7).all())
    law = final_law(NoisyEnumerableDenoiser(joint(), process=process), sampler, 3)
    assert chi_square(count_states(out.tokens, SYMBOLS), law).p > P_LIMIT


def test_the_trapezoidal_rule_is_of_second_order_on_a_mild_law() -> None:
    """Slope of the error between 32 and 64 intervals; the other rule stays at first order."""
    toy = NoisyEnumerableDenoiser(joint(0.2))
    sampler = ThetaTrapezoidal(0.5, LOG_LINEAR, 1e-5, "sample")
    first_order = ThetaRK2(0.5, LOG_LINEAR, 1e-5, "sample")

    def slope(method: TwoStage) -> float:
        errors = [tv(final_law(toy, method, n), joint(0.2).flatten()) for n in (32, 64)]
        return math.log2(errors[0] / errors[1])

    assert slope(sampler) > 1.7
    assert 0.8 < slope(first_order) < 1.3


@pytest.mark.parametrize("clock", ["hazard", "time"])
@pytest.mark.parametrize("method", [ThetaRK2, ThetaTrapezoidal])
def test_stage_2_is_told_the_middle_of_the_step_on_masks(
    method: type[TwoStage], clock: ClockName
) -> None:
    """On the linear schedule H = ln(t / s), so the middle is t (s / t)^theta; else t - theta h."""
    theta, intervals, t_end = 0.4, 4, 1e-2
    told: list[float] = []

    def network(input_ids: Tensor, *, t: Tensor) -> Tensor:
        assert bool((t == t[0]).all())
        told.append(float(t[0]))
        return torch.zeros(*input_ids.shape, SYMBOLS + 1)

    denoiser = wrap(network, vocab_size=SYMBOLS + 1, mask_token_id=SYMBOLS, schedule=LINEAR)
    tokens = torch.zeros(400, 30, dtype=torch.int64)
    sampler = method(theta, LINEAR, t_end, clock=clock)
    seeds, steps = ops.row_seeds(1, len(tokens)), 2 * intervals
    sample(denoiser, sampler, tokens, tokens == 0, seeds=seeds, steps=steps)
    expected: list[float] = []
    for k in range(intervals):
        t, s = (1.0 - (1.0 - t_end) * i / intervals for i in (k, k + 1))
        expected += [t, t * (s / t) ** theta if clock == "hazard" else t - theta * (t - s)]
    # Rows that need a prediction later in a step cost a pass of their own, at the same time.
    assert list(dict.fromkeys(told)) == pytest.approx([*expected, t_end], abs=1e-12)

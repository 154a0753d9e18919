"""The bound on the rate of leaving a token under uniform noise is reached; so is its integral."""

from __future__ import annotations

import pytest
import torch

from dlm_sampling.processes import Uniform
from dlm_sampling.schedules import LogLinear

SIZE, NOISE = 5, Uniform()
SCHEDULE = LogLinear(0.01)


@pytest.mark.parametrize("time", [0.1, 0.5, 0.99])
def test_the_bound_is_the_largest_rate_and_no_more(time: float) -> None:
    """Leave-one-out laws at random stay below it; one that excludes x attains it."""
    t = torch.tensor(time, dtype=torch.float64)
    alpha, slope, x = SCHEDULE.alpha(t), SCHEDULE.rate(t), torch.tensor([2])
    weights = torch.randn(200, SIZE, generator=torch.Generator().manual_seed(1)).double()
    laws = [*(3 * weights).softmax(-1), torch.eye(SIZE).double()[0]]
    leaving: list[float] = []
    for loo in laws:
        score = NOISE.convert(loo[None], x, alpha, "leave_one_out", "log_score")
        leaving.append(float(NOISE.rates(score, x, alpha, slope).sum()))
    bound = float(NOISE.exit_bound(alpha, slope, SIZE))
    assert max(leaving[:-1]) < bound
    assert leaving[-1] == pytest.approx(bound, rel=1e-12)


def test_the_integral_is_that_of_the_bound() -> None:
    times = torch.linspace(0.9, 0.2, 200_001, dtype=torch.float64)
    bounds = NOISE.exit_bound(SCHEDULE.alpha(times), SCHEDULE.rate(times), SIZE)
    found = NOISE.exit_integral(SCHEDULE.alpha(times[0]), SCHEDULE.alpha(times[-1]), SIZE)
    assert float(found) == pytest.approx(float(-torch.trapezoid(bounds, times)), rel=1e-8)

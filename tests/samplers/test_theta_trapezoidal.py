"""The theta-trapezoidal rule: its bound, its stages, and what it draws on masks."""

from __future__ import annotations

import math

import pytest
import torch

from dlm_sampling.samplers import ThetaTrapezoidal
from dlm_sampling.samplers.parts.two_stage import ClockName
from dlm_sampling.schedules import LINEAR
from tests.samplers.stages import check_draws, check_shares, check_stages


@pytest.mark.parametrize("theta", [0.3, 0.5, 0.8])
def test_the_bound_is_the_largest_sum_of_rates(theta: float) -> None:
    """[a1 R* - a2 R_t]_+ is largest where R_t leads to no token that R* leads to."""
    sampler = ThetaTrapezoidal(theta)
    t, star = torch.tensor(0.7).double(), torch.tensor(1.3).double()
    first, second = torch.tensor([1.0, 0.0]).double(), torch.tensor([0.0, 1.0]).double()
    rates = sampler.rates(t * first, star * second)
    torch.testing.assert_close(rates.sum(), sampler.bound(t, star))
    a1 = 1 / (2 * theta * (1 - theta))
    assert float(sampler.bound(t, star)) == pytest.approx(1.3 * a1)
    assert float(sampler.rates(t * first, star * first)[0]) == pytest.approx(
        max(a1 * 1.3 - (a1 - 1) * 0.7, 0.0)
    )
    check_stages(sampler, second=1 - theta)


@pytest.mark.parametrize("clock", ["hazard", "time"])
def test_draws_on_masks_have_the_law_of_both_stages(clock: ClockName) -> None:
    check_draws(ThetaTrapezoidal(0.4, LINEAR, 0.05, "sample", clock))
    for theta in (0.4, 0.7):
        check_shares(ThetaTrapezoidal(theta, clock=clock), restarts=False)
    assert not ThetaTrapezoidal().exact
    assert math.isclose(ThetaTrapezoidal().theta, 0.5)

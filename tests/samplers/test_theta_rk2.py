"""The theta-RK-2 rule: its bound, its stages, and what it draws on masks."""

from __future__ import annotations

import pytest
import torch

from dlm_sampling.samplers import ThetaRK2
from dlm_sampling.samplers.parts.two_stage import ClockName
from dlm_sampling.schedules import LINEAR
from tests.samplers.stages import check_draws, check_shares, check_stages


@pytest.mark.parametrize("theta", [0.3, 0.5, 0.8, 1.0])
def test_the_bound_is_the_largest_sum_of_rates(theta: float) -> None:
    """Laws that lead to different tokens reach it: a negative part is cut."""
    sampler = ThetaRK2(theta)
    t, star = torch.tensor(0.7).double(), torch.tensor(1.3).double()
    first, second = torch.tensor([1.0, 0.0]).double(), torch.tensor([0.0, 1.0]).double()
    rates = sampler.rates(t * first, star * second)
    torch.testing.assert_close(rates.sum(), sampler.bound(t, star))
    half = 1 / (2 * theta)
    assert float(sampler.bound(t, star)) == pytest.approx(max(1 - half, 0) * 0.7 + half * 1.3)
    check_stages(sampler, second=1.0)


@pytest.mark.parametrize("clock", ["hazard", "time"])
def test_draws_on_masks_have_the_law_of_both_stages(clock: ClockName) -> None:
    check_draws(ThetaRK2(0.4, LINEAR, 0.05, "sample", clock))
    for theta in (0.4, 0.7):
        check_shares(ThetaRK2(theta, clock=clock), restarts=True)
    check_draws(ThetaRK2(0.8, LINEAR, 0.05, "argmax", clock))

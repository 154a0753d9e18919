"""The intervals of solvers with two stages by hand, and what they draw in two intervals."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from dlm_sampling.samplers.parts.two_stage import TwoStage
from dlm_sampling.schedules import LINEAR
from dlm_sampling.testing import chi_square
from tests.samplers import test_mask_solvers as on_masks


def check_stages(sampler: TwoStage, second: float) -> None:
    """On the linear schedule H = ln(t / s) and c_t = 1 / t; noise comes at rate 1 on ln alpha."""
    t, s = torch.tensor([0.9, 0.5]).double(), torch.tensor([0.6, 0.1]).double()
    theta = sampler.theta
    hazard, timed = (replace(sampler, schedule=LINEAR, clock=clock) for clock in ("hazard", "time"))
    same = torch.testing.assert_close
    found = hazard.interval(t, s)
    same(found.window, torch.log(t / s))
    same(found.middle, t * (s / t) ** theta)
    same(found.rate_t + found.rate_star, torch.full_like(t, 2.0))
    same(hazard.first_prob(found), 1 - (s / t) ** theta)
    same(hazard.second_window(found), second * torch.log(t / s))
    found = timed.interval(t, s)
    same(found.window, t - s)
    same(found.middle, t - theta * (t - s))
    same(found.rate_t, 1 / t)
    same(found.rate_star, 1 / (t - theta * (t - s)))
    same(timed.first_prob(found), 1 - torch.exp(-theta * (t - s) / t))
    bound = timed.bound(found.rate_t, found.rate_star)
    same(timed.bound_prob(found), 1 - torch.exp(-second * (t - s) * bound))
    noise = hazard.interval_of_noise(t, s)
    same(noise.window, torch.log((1 - s) / (1 - t)))
    same(noise.middle, 1 - (1 - t) ** (1 - theta) * (1 - s) ** theta)
    noise = timed.interval_of_noise(t, s)
    same(noise.middle, t - theta * (t - s))
    assert [sampler.schedule_length(n) for n in (1, 2, 3, 8)] == [3, 3, 3, 9]
    with pytest.raises(ValueError, match="t_end"):
        replace(sampler, t_end=0.0)
    with pytest.raises(ValueError, match="theta"):
        replace(sampler, theta=math.nan)


def check_draws(sampler: TwoStage) -> None:
    """2000 rows with two intervals: the finished tokens have the law of both stages."""
    toy = on_masks.world(5)
    found = on_masks.draws(toy, sampler, 4, rows=2000)
    assert chi_square(found, on_masks.two_stage_law(toy, sampler, 2)).p > 1e-4

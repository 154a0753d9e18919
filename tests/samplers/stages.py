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
from tests.samplers.small import run, small_toy


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


def check_shares(sampler: TwoStage, restarts: bool) -> None:
    """One law at all positions: the share that is still masked after every stage, by hand."""
    count, theta, t_end = 6000, sampler.theta, 0.2
    toy = small_toy(length=count, scale=0.0)
    out = run(toy, replace(sampler, schedule=LINEAR, t_end=t_end), length=count, steps=4)
    assert out.trajectory is not None
    left, wanted = 1.0, list[float]()
    for k in range(2):
        t, s = (1.0 - (1.0 - t_end) * i / 2 for i in (k, k + 1))
        window, rates = math.log(t / s), (1.0, 1.0)
        if sampler.clock == "time":
            window, rates = t - s, (1.0 / t, 1.0 / (t - theta * (t - s)))
        half, a1 = 1 / (2 * theta), 1 / (2 * theta * (1 - theta))
        if not restarts:
            left *= math.exp(-theta * window * rates[0])
        wanted.append(left)
        mixed = (1 - half) * rates[0] + half * rates[1]
        if not restarts:
            mixed, window = a1 * rates[1] - (a1 - 1) * rates[0], (1 - theta) * window
        stays = math.exp(-window * max(mixed, 0.0))
        if restarts:  # where the look ahead revealed the position, R* is 0
            seen = math.exp(-theta * window * rates[0])
            stays = seen * stays + (1 - seen) * math.exp(-window * max(1 - half, 0.0) * rates[0])
        left *= stays
        wanted.append(left)
    found = [int(event.unknown.sum()) / count for event in out.trajectory.events]
    for share, exact in zip(found, [*wanted, 0.0], strict=True):
        assert abs(share - exact) <= 4.5 * math.sqrt(exact * (1 - exact) / count)

"""Euler's step: its probability, its law from the rates, and what it draws."""

from __future__ import annotations

import pytest

from dlm_sampling.samplers import Euler
from dlm_sampling.schedules import Schedule
from tests.processes.enumerated import filled
from tests.processes.random_laws import same
from tests.samplers.grid_chains import (
    SCHEDULES,
    TIMES,
    check_draws,
    check_transition,
    uniform_step,
)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_a_mask_is_revealed_with_the_rate_times_the_step(schedule: Schedule) -> None:
    t, s = TIMES
    rate = schedule.rate(t) / (1 - schedule.alpha(t))
    sampler = Euler(schedule)
    same(sampler.reveal_prob(t, s), ((t - s) * rate).clamp(max=1.0))
    assert float(sampler.reveal_prob(t, s - t + 0.001).max()) <= 1.0
    check_transition(sampler)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize("s", [0.75, 0.1])
def test_a_step_under_uniform_noise_is_the_rates_times_the_step(
    schedule: Schedule, s: float
) -> None:
    found, _, rates, x = uniform_step(Euler(schedule), 0.8, s)
    law = filled((0.8 - s) * rates, x).clamp_min(0.0)
    same(found, law / law.sum(-1, keepdim=True))


def test_draws_have_the_law_of_the_chain() -> None:
    check_draws(Euler())
    assert Euler().noise_removal == "sample"

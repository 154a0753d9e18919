"""Laws of a leap at frozen rates, against the ancestral step."""

from __future__ import annotations

import pytest

from dlm_sampling.processes import Absorbing, jumps
from dlm_sampling.processes.flow import shortcut_law
from dlm_sampling.schedules import (
    Cosine,
    Exponential,
    Geometric,
    HalfCosine,
    LogLinear,
    Polynomial,
    Schedule,
    hazard,
    reverse_rate,
    time_after_hazard,
)
from tests.processes.random_laws import MASK, masked, number, same

SCHEDULES: list[Schedule] = [
    LogLinear(0.0),
    LogLinear(0.01),
    Cosine(),
    Cosine(power=2),
    HalfCosine(),
    Geometric(),
    Polynomial(2.0),
    Exponential(4.0),
]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_a_leap_in_hazard_time_is_the_ancestral_step(schedule: Schedule) -> None:
    p, x = masked(3)
    process, t, s = Absorbing(MASK), number(0.8), number(0.35)
    rates = process.reverse_rates(p, x, number(1.0))
    ancestral = process.reverse(p, x, schedule.alpha(t), schedule.alpha(s))
    same(jumps.last_event_law(rates, x, hazard(schedule, t, s)), ancestral)
    same(shortcut_law(process.clean_law(p, x), x, schedule.alpha(t), schedule.alpha(s)), ancestral)
    half = 0.5 * hazard(schedule, t, s)
    same(hazard(schedule, t, time_after_hazard(schedule, t, half)), half)


def test_under_another_schedule_euler_is_not_ancestral() -> None:
    p, x = masked(2)
    process, schedule, t, s = Absorbing(MASK), HalfCosine(), number(0.7), number(0.5)
    ancestral = process.reverse(p, x, schedule.alpha(t), schedule.alpha(s))
    rates = process.reverse_rates(p, x, reverse_rate(schedule, t))
    assert float((jumps.euler_law(rates, x, t - s) - ancestral).abs().max()) > 1e-3

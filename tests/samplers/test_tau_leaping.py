"""Tau-leaping: its probability under each rule for several events, its law, and what it draws."""

from __future__ import annotations

import pytest
import torch

from dlm_sampling.processes.jumps import displacement_law
from dlm_sampling.samplers import TauLeaping
from dlm_sampling.samplers.tau_leaping import Events
from dlm_sampling.schedules import LOG_LINEAR, LogLinear, Schedule
from tests.processes.enumerated import filled, others
from tests.processes.random_laws import same
from tests.samplers.grid_chains import (
    SCHEDULES,
    TIMES,
    check_draws,
    check_transition,
    uniform_step,
)

RULES: tuple[Events, ...] = ("last", "reject", "displace")


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize("events", RULES)
def test_a_mask_is_revealed_by_a_poisson_count(events: Events, schedule: Schedule) -> None:
    """By at least one event of the mean m = (t - s) c_t, or by exactly one."""
    t, s = TIMES
    mean = (t - s) * schedule.rate(t) / (1 - schedule.alpha(t))
    sampler = TauLeaping(schedule, events=events)
    wanted = mean * torch.exp(-mean) if events == "reject" else 1 - torch.exp(-mean)
    same(sampler.reveal_prob(t, s), wanted)
    same(sampler.event_prob(mean), wanted)
    check_transition(sampler)


@pytest.mark.parametrize("events", RULES)
def test_a_step_under_uniform_noise_is_the_law_of_its_events(events: Events) -> None:
    found, _, rates, x = uniform_step(TauLeaping(LOG_LINEAR, events=events), 0.8, 0.5)
    leave = others(0.3 * rates, x)
    total = leave.sum(-1, keepdim=True)
    wanted = {
        "last": filled((1 - torch.exp(-total)) * leave / total, x),
        "reject": filled(torch.exp(-total) * leave, x),
        "displace": displacement_law(leave, x, torch.ones(()).double()),
    }[events]
    same(found, wanted)


@pytest.mark.parametrize("events", RULES)
def test_draws_have_the_law_of_the_chain(events: Events) -> None:
    check_draws(TauLeaping(LogLinear(1e-2), 0.1, "sample", events))

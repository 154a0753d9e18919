"""Tweedie's step: the ancestral probability, its law from ratios, and what it draws."""

from __future__ import annotations

import pytest
import torch

from dlm_sampling.processes import Uniform
from dlm_sampling.samplers import Tweedie
from dlm_sampling.schedules import LOG_LINEAR, LogLinear, Schedule
from tests.processes.random_laws import same
from tests.samplers.grid_chains import (
    SCHEDULES,
    TIMES,
    check_draws,
    check_transition,
    uniform_step,
)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_a_mask_is_revealed_with_the_probability_of_the_reverse_process(schedule: Schedule) -> None:
    alpha_t, alpha_s = (schedule.alpha(t) for t in TIMES)
    same(Tweedie(schedule).reveal_prob(*TIMES), 1 - (1 - alpha_s) / (1 - alpha_t))
    check_transition(Tweedie(schedule))


def test_ratios_of_a_law_give_bayes_rule_and_ratios_of_noise_are_refused() -> None:
    for schedule in (LOG_LINEAR, LogLinear(1e-6)):
        found, exact, _, _ = uniform_step(Tweedie(schedule), 0.8, 0.3)
        same(found, exact)
    ones, x, t = torch.ones(1, 3).double(), torch.tensor([0]), torch.ones(1).double()
    with pytest.raises(ValueError, match=r"has alpha\(1\) = 0"):
        Tweedie(LogLinear(0.0)).next_law(Uniform(), ones, x, t, t / 2)


def test_draws_have_the_law_of_the_chain() -> None:
    check_draws(Tweedie())
    assert Tweedie().noise_removal == "sample"

"""The ancestral step: its probability, its law by Bayes' rule, and what it draws."""

from __future__ import annotations

import pytest

from dlm_sampling.processes import Absorbing, Uniform
from dlm_sampling.samplers import Ancestral
from dlm_sampling.schedules import Schedule
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
    sampler = Ancestral(schedule)
    same(sampler.reveal_prob(*TIMES), 1 - (1 - alpha_s) / (1 - alpha_t))
    check_transition(sampler)
    assert sampler.reads(Uniform()) == "leave_one_out"
    assert sampler.reads(Absorbing(3)) == "posterior"


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_a_step_under_uniform_noise_is_bayes_rule(schedule: Schedule) -> None:
    found, exact, _, _ = uniform_step(Ancestral(schedule), 0.8, 0.3)
    same(found, exact)


@pytest.mark.parametrize("removal", ["sample", "argmax"])
def test_draws_have_the_law_of_the_chain(removal: str) -> None:
    """A prediction of each kind: of scores the table is drawn, of laws a mixture."""
    sampler = Ancestral(noise_removal=removal)  # pyright: ignore[reportArgumentType]
    check_draws(sampler, ("posterior", "leave_one_out", "log_score"))

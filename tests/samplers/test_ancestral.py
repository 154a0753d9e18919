"""The ancestral step: its probability, its law by Bayes' rule, and what it draws."""

from __future__ import annotations

import pytest
import torch

from dlm_sampling.processes import Absorbing, Uniform
from dlm_sampling.samplers import Ancestral
from dlm_sampling.schedules import LogLinear, Schedule
from dlm_sampling.types import Canvas
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


def test_positions_that_are_not_written_keep_their_token_under_noise() -> None:
    """Three of six positions are written; the noise is uniform where no process is named."""
    g = torch.Generator().manual_seed(2)
    tokens = torch.randint(5, (2, 3), generator=g)
    free = torch.tensor([[True, False, True], [False, False, True]])
    canvas = Canvas(tokens, free, torch.ones_like(free), torch.zeros(2).long(), None)
    p = torch.rand(2, 3, 5, generator=g).double().softmax(-1)
    t, s = (torch.tensor([[value]], dtype=torch.float64) for value in (0.7, 0.4))
    sampler = Ancestral(LogLinear(0.0))
    found = sampler.transition_probs(canvas, p.log(), t, s)
    wanted = Uniform().reverse(p, tokens, (1 - t).expand(2, 3), (1 - s).expand(2, 3))
    same(found[free], wanted[free])
    assert torch.equal(found[~free], torch.nn.functional.one_hot(tokens[~free], 5).double())

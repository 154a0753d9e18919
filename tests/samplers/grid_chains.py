"""What solvers on a time grid draw in a few steps, against their chain, on masks and tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dlm_sampling.processes import Uniform
from dlm_sampling.samplers.parts.grid import GridSampler
from dlm_sampling.schedules import LOG_LINEAR, Cosine, Geometric, LogLinear, Schedule
from dlm_sampling.testing import NoisyEnumerableDenoiser, chi_square
from dlm_sampling.types import Canvas
from tests.processes.enumerated import given_noisy, ratios, uniform_noise
from tests.processes.random_laws import SIZE, laws
from tests.samplers import test_mask_solvers as on_masks
from tests.samplers import test_uniform_solvers as on_tokens

P_LIMIT = 1e-4
SCHEDULES: tuple[Schedule, ...] = (LOG_LINEAR, LogLinear(0.0), Cosine(), Geometric(1e-2, 3.0))
TIMES = torch.tensor([0.9, 0.5, 0.2]).double(), torch.tensor([0.6, 0.1, 0.15]).double()


def check_draws(sampler: GridSampler, kinds: tuple[Any, ...] = ("leave_one_out",)) -> None:
    """2000 rows with 2 steps: the finished tokens have the law of the chain."""
    toy = on_masks.world(5)
    found = on_masks.draws(toy, sampler, 2, rows=2000)
    assert chi_square(found, on_masks.grid_law(toy, sampler, 2)).p > P_LIMIT
    exact = NoisyEnumerableDenoiser(on_tokens.joint(), kind="leave_one_out", schedule=LOG_LINEAR)
    law = on_tokens.exact_law(exact, sampler, 2)
    for kind in kinds:
        noisy = NoisyEnumerableDenoiser(on_tokens.joint(), kind=kind, schedule=LOG_LINEAR)
        assert chi_square(on_tokens.draws(noisy, sampler, 2, rows=2000), law).p > P_LIMIT


def uniform_step(sampler: GridSampler, t: float, s: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The step's law under uniform noise, Bayes' rule, the rates of leaving, and the tokens."""
    loo, x = laws(31)
    alpha, after, slope = (
        float(value)
        for value in (
            sampler.schedule.alpha(torch.tensor(t, dtype=torch.float64)),
            sampler.schedule.alpha(torch.tensor(s, dtype=torch.float64)),
            sampler.schedule.rate(torch.tensor(t, dtype=torch.float64)),
        )
    )
    pi = uniform_noise(SIZE)
    score = ratios(loo, x, pi, alpha)
    reads = {"leave_one_out": loo, "log_score": score}[sampler.reads(Uniform())]
    times = (torch.full(x.shape, value, dtype=torch.float64) for value in (t, s))
    found = sampler.next_law(Uniform(), reads, x, *times)
    rates = slope / alpha / SIZE * score
    return found, given_noisy(loo, x, pi, alpha, after).sum(-2), rates, x


def check_transition(sampler: GridSampler) -> None:
    """On masks: reveal with the sampler's probability, at positions that are unknown only."""
    k = torch.arange(6)
    grid = 1.0 - (1.0 - sampler.t_end) * k.double().clamp(max=4) / 4
    torch.testing.assert_close(sampler.time_at(k, torch.tensor(4)), grid)
    assert sampler.schedule_length(4) == 5
    p, _ = laws(32, SIZE - 1, 2)
    p = torch.nn.functional.pad(p, (0, 1))
    mask = SIZE - 1
    tokens = torch.tensor([[mask, 1, mask], [2, mask, mask]])
    editable = torch.tensor([[True, True, True], [True, True, False]])
    canvas = Canvas(tokens, tokens == mask, editable, torch.zeros(2).long(), mask)
    t, s = torch.tensor([[0.8], [0.3]]).double(), torch.tensor([[0.5], [0.2]]).double()
    chance = sampler.reveal_prob(t, s).unsqueeze(-1)
    here = torch.nn.functional.one_hot(tokens, SIZE).double()
    revealed = chance * p + (1 - chance) * here
    wanted = torch.where(((tokens == mask) & editable).unsqueeze(-1), revealed, here)
    torch.testing.assert_close(sampler.transition_probs(canvas, p.log(), t, s), wanted)

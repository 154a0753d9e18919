"""Split Gibbs: each of its two steps and their turns against enumeration, on V 3 and L 3."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from dlm_sampling import ops, sample, samplers
from dlm_sampling.ops import Rng
from dlm_sampling.samplers.base import SamplerBase
from dlm_sampling.schedules import LOG_LINEAR
from dlm_sampling.smc import sample_split_gibbs
from dlm_sampling.smc.split_gibbs import log_odds, noisy_moves
from dlm_sampling.testing import chi_square, count_states, tv
from dlm_sampling.types import Step, TokenLaw
from tests.guidance.toys import EXACT_P, LENGTH, NOISY_P, STATES, P, S

IDS = torch.arange(S)


def log_likelihood(rows: Tensor) -> Tensor:
    """A noisy sum was observed: y = 4 with an error of size 0.7."""
    return -0.5 * ((rows.sum(1) - 4.0) / 0.7).square()


def kernel(level: float) -> Tensor:
    """q(u | x), rows x, [27, 27]."""
    one = level * torch.eye(S).double() + (1.0 - level) / S
    return torch.stack(
        [one[STATES[:, i]][:, STATES[:, i]] for i in range(LENGTH)]
    ).prod(0)  # fmt: skip


@dataclass(frozen=True)
class ExactReverse(SamplerBase[None]):
    """Draw x from p(x | u) by enumeration, in one step."""

    schedule = LOG_LINEAR
    runs_on = ("uniform",)
    clock_use = "begin"
    revises = True

    def step(self, state: None, canvas: Any, clock: Any, predict: Any, rng: Any) -> Any:
        level = float(self.schedule.alpha(torch.tensor(clock.begin, dtype=torch.float64)))
        place = canvas.tokens @ torch.tensor([9, 3, 1])
        law = (P.flatten() * kernel(level).T[place]).cumsum(1)
        u = rng.uniform(ops.Stream.RESAMPLE, canvas.start).unsqueeze(1)
        tokens = STATES[torch.searchsorted(law / law[:, -1:], u)[:, 0]]
        return None, Step(tokens, canvas.unknown & False, torch.zeros(tokens.shape).double())


def run(count: int, **options: Any) -> Any:
    empty = torch.zeros(count, LENGTH, dtype=torch.int64)
    options = {"seeds": range(count), "moves": 25, **options}
    sampler, likelihood = options.pop("sampler", ExactReverse()), options.pop("log", log_likelihood)
    editable = options.pop("editable", empty == 0)
    denoiser, tokens = options.pop("denoiser", NOISY_P), options.pop("tokens", empty)
    if isinstance(sampler, str):
        sampler = samplers.create(sampler)
    return sample_split_gibbs(denoiser, sampler, tokens, editable, likelihood, **options)


def test_the_moves_have_the_law_of_the_noisy_row_given_the_clean_one() -> None:
    x = torch.tensor([[0, 2, 1]]).expand(3000, -1)
    everywhere = torch.ones_like(x, dtype=torch.bool)
    odds, rng = log_odds(0.6, S), Rng.from_seeds(range(3000))
    u, _ = noisy_moves(log_likelihood, x, x, everywhere, IDS, odds, 40, rng)
    law = kernel(0.6)[0 * 9 + 2 * 3 + 1] * log_likelihood(STATES.double()).exp()
    assert chi_square(count_states(u, S), law).p > 1e-3
    released = law * (S - 1.0) ** (x[0] != STATES).sum(1)  # the odds of any change for one token
    assert chi_square(count_states(u, S), released).p < 1e-9
    theirs = log_odds(0.6, S, released=True)
    u, _ = noisy_moves(log_likelihood, x, x, everywhere, IDS, theirs, 40, rng)
    assert chi_square(count_states(u, S), released).p > 1e-3
    part = everywhere & torch.tensor([True, False, True])
    held, taken = noisy_moves(log_likelihood, x, x, part, IDS, odds, 9, rng)
    assert bool((held[:, 1] == 2).all()) and 0.2 < float(taken.mean()) / 9 < 0.9


@pytest.mark.slow
def test_the_turns_reach_the_posterior_of_the_noise() -> None:
    """At one time the law of x is p(x) sum_u q(u | x) l(u); where times fall, p(x) l(x)."""
    level = float(LOG_LINEAR.alpha(torch.tensor(0.6, dtype=torch.float64)))
    out = run(900, times=(0.6,) * 5, steps=1)
    smooth = P.flatten() * (kernel(level) @ log_likelihood(STATES.double()).exp())
    assert chi_square(count_states(out.tokens, S), smooth).p > 1e-3
    assert chi_square(count_states(out.tokens, S), P.flatten()).p < 1e-3
    sharp = P.flatten() * log_likelihood(STATES.double()).exp()
    falling = run(900, times=(0.7, 0.5, 0.3, 0.2, 0.1, 0.05), steps=1)
    law = count_states(falling.tokens, S).double() / 900
    assert tv(law, sharp / sharp.sum()) < 0.13 < 0.2 < tv(P.flatten(), sharp / sharp.sum())


def test_no_round_is_the_plain_run_and_no_operator_the_prior() -> None:
    empty = torch.zeros(6, LENGTH, dtype=torch.int64)
    sampler = samplers.create("euler")
    plain = sample(NOISY_P, sampler, empty, empty == 0, seeds=range(6), steps=6, law=TokenLaw())
    none = run(6, sampler="euler", times=(), steps=6)
    assert torch.equal(none.tokens, plain.tokens) and torch.equal(none.nfe, plain.nfe)
    options = {"sampler": "euler", "times": (0.5, 0.2), "steps": 6}
    together, alone = run(6, **options), run(1, seeds=[4], **options)
    assert torch.equal(together.tokens[4], alone.tokens[0])
    assert torch.equal(together.observed[4], alone.observed[0])
    flat = run(600, log=lambda rows: torch.zeros(len(rows)), times=(0.5, 0.3), steps=1)
    assert chi_square(count_states(flat.tokens, S), P.flatten()).p > 1e-3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"released_compat": 1}, "released_compat=1: must be True or False"),
        ({"moves": -1}, "moves=-1: must be at least 0"),
        ({"times": (0.5, 1.0)}, "times.1.=1.0: must be in"),
        ({"denoiser": EXACT_P, "sampler": "ancestral"}, "absorbing noise: a likelihood of rows"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        run(1, **options)

"""RDM under uniform noise: the law of the loop is that of the routing, read plainly."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from dlm_sampling import ops, wrap
from dlm_sampling.engine.sample import SampleOutput, sample
from dlm_sampling.samplers import RDM
from dlm_sampling.schedules import Cosine
from dlm_sampling.testing import chi_square, count_states
from dlm_sampling.types import TokenLaw
from tests.samplers.small import lowest

LENGTH, SYMBOLS, STEPS, ROWS, P_LIMIT = 3, 2, 4, 20_000, 1e-4
PLACE = SYMBOLS ** torch.arange(LENGTH - 1, -1, -1)


def table(seed: int = 0) -> Tensor:
    """Log-laws of a network that depends on all tokens, [S^L, L, S]."""
    shape = (SYMBOLS**LENGTH, LENGTH, SYMBOLS)
    return (
        torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double().log_softmax(-1)
    )


def draws(sampler: RDM, logp: Tensor, rows: int = ROWS, steps: int = STEPS) -> SampleOutput:
    net = wrap(lambda input_ids: logp[input_ids @ PLACE], vocab_size=SYMBOLS, mask_token_id=None)
    tokens = torch.zeros(rows, LENGTH, dtype=torch.int64)
    options: Any = {"seeds": ops.row_seeds(2, rows), "law": TokenLaw(), "return_trajectory": True}
    return sample(net, sampler, tokens, tokens == 0, steps=steps, **options)


def routed(sampler: RDM, logp: Tensor) -> Tensor:
    """Law of the finished tokens: all first canvases, proposals and fresh noises, one by one."""
    symbols = list(itertools.product(range(SYMBOLS), repeat=LENGTH))
    share = 1.0 / len(symbols)
    law: dict[Any, float] = {(x, (True,) * LENGTH, (0.0,) * LENGTH): share for x in symbols}
    for step in range(STEPS):
        rate = 1 - (step + 1) / STEPS
        rate = math.cos(math.pi * (1 - rate) / 2) if sampler.mask_schedule == "cosine" else rate
        following: dict[Any, float] = {}
        for (x, noisy, kept), mass in law.items():
            rows = logp[int(torch.tensor(x) @ PLACE)].tolist()
            for proposal in symbols:
                scores = [rows[i][v] for i, v in enumerate(proposal)]
                chance = mass * math.exp(sum(scores))
                low = lowest(scores, math.floor(LENGTH * rate + 1e-9))
                after, flags, score = list(x), list(noisy), list(kept)
                for i in range(LENGTH):
                    repeats = proposal[i] == x[i] and scores[i] < kept[i]
                    if noisy[i] and i not in low:
                        after[i], flags[i], score[i] = proposal[i], False, scores[i]
                    elif not noisy[i] and i in low and (repeats or not sampler.conditional):
                        flags[i], score[i] = True, -math.inf
                fresh = [i for i in range(LENGTH) if flags[i]]
                for noise in itertools.product(range(SYMBOLS), repeat=len(fresh)):
                    for i, v in zip(fresh, noise, strict=True):
                        after[i] = v
                    state = (tuple(after), tuple(flags), tuple(score))
                    share = chance / SYMBOLS ** len(fresh)
                    following[state] = following.get(state, 0.0) + share
        law = following
    total = torch.zeros(SYMBOLS**LENGTH, dtype=torch.float64)
    for (x, noisy, _), mass in law.items():
        assert not any(noisy)
        total[int(torch.tensor(x) @ PLACE)] += mass
    return total


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_law_is_that_of_the_routing(conditional: bool, schedule: Any) -> None:
    sampler, logp = RDM(conditional, mask_schedule=schedule), table()
    seen = count_states(draws(sampler, logp).tokens, SYMBOLS)
    assert chi_square(seen, routed(sampler, logp)).p > P_LIMIT


def test_the_conditions_differ() -> None:
    logp = table(3)
    seen = count_states(draws(RDM(mask_schedule="linear"), logp, 60_000).tokens, SYMBOLS)
    assert chi_square(seen, routed(RDM(True, mask_schedule="linear"), logp)).p < 1e-6


def test_what_is_low_gets_fresh_uniform_tokens() -> None:
    """With a network that always writes 0, every other token of a middle canvas is noise."""
    logp = torch.tensor([0.0, -torch.inf]).expand(SYMBOLS**LENGTH, LENGTH, SYMBOLS)
    out = draws(RDM(mask_schedule="linear"), logp, rows=9000, steps=3)
    assert out.trajectory is not None
    assert bool((out.tokens == 0).all())
    for event, noisy in zip(out.trajectory.events, (2, 1, 0), strict=True):
        # Ties go to the first positions: they are low, the others are written.
        assert bool((event.tokens[:, noisy:] == 0).all())
        for i in range(noisy):
            seen = torch.bincount(event.tokens[:, i], minlength=SYMBOLS)
            assert chi_square(seen, torch.ones(SYMBOLS)).p > P_LIMIT
    first, second = (event.tokens[:, 0] for event in out.trajectory.events[:2])
    both = torch.bincount(first * SYMBOLS + second, minlength=SYMBOLS**2)
    assert chi_square(both, torch.ones(SYMBOLS**2)).p > P_LIMIT


def test_the_released_cutoff_leaves_nothing_over_and_steps_are_passes() -> None:
    sampler = RDM(cutoff="released")
    out = draws(sampler, table(1), rows=50, steps=4)
    assert bool((out.nfe <= 4).all())
    assert bool((out.steps == 4).all())


def test_a_network_with_a_schedule_of_its_own_is_told_the_time_of_the_share_of_noise() -> None:
    """What RDM calls a schedule is no alpha(t): alpha of the time told is the share of tokens."""
    for mask in (None, SYMBOLS):
        seen: list[Tensor] = []

        def net(input_ids: Tensor, t: Tensor, seen: list[Tensor] = seen) -> Tensor:
            seen.append(t)
            return torch.zeros(*input_ids.shape, SYMBOLS + 1)

        denoiser = wrap(net, vocab_size=SYMBOLS + 1, mask_token_id=mask, schedule=Cosine())
        tokens = torch.zeros(3, 4, dtype=torch.int64)
        sample(denoiser, RDM(mask_schedule="linear"), tokens, tokens == 0, seeds=[1, 2, 3], steps=4)
        shares = torch.stack([1.0 - Cosine().alpha(t.max()) for t in seen])
        # The schedule keeps a thousandth of the tokens at t = 1.
        assert shares.tolist() == pytest.approx([0.999, 0.75, 0.5, 0.25], abs=1e-6)

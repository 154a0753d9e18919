"""P2: exact laws by enumeration, reductions, planners, deviations from the released code."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from dlm_sampling import ops
from dlm_sampling.engine.sample import sample
from dlm_sampling.samplers import P2, LLaDA, create
from dlm_sampling.samplers.p2 import KAPPAS
from dlm_sampling.samplers.parts.quotas import floor_share
from dlm_sampling.testing import EnumerableDenoiser, FixtureToy, chi_square, count_states
from dlm_sampling.testing.sudoku import SudokuOracle, is_valid
from dlm_sampling.types import DenoiserOutput, Pass, TokenLaw
from tests.samplers.small import (
    LENGTH,
    MASK,
    SYMBOLS,
    LogProbs,
    Rule,
    Tokens,
    exact_law,
    lowest,
    run,
    small_toy,
)

ROWS = 5_000
P_LIMIT = 1e-4


def masks(sampler: P2, toy: FixtureToy, length: int, steps: int, **options: Any) -> list[Tensor]:
    """Unknown positions after each step."""
    out = run(toy, sampler, length=length, steps=steps, **options)
    assert out.trajectory is not None
    return [event.unknown for event in out.trajectory.events]


def test_schedules_run_from_nothing_to_everything_and_rise() -> None:
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    for name, kappa in KAPPAS.items():
        value = kappa(t)
        assert abs(float(value[0])) < 1e-12 and abs(float(value[-1]) - 1) < 1e-12, name
        assert bool((value.diff() > 0).all()), name
    half = {name: float(kappa(torch.tensor(0.5).double())) for name, kappa in KAPPAS.items()}
    expected = {
        "linear": 0.5,
        "sine": math.sqrt(0.5),
        "geometric": 0.75,
        "log": math.log2(1.5),
        "square": 0.25,
        "sqrt": math.sqrt(0.5),
    }
    assert half == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("kappa", KAPPAS)
def test_every_step_leaves_exactly_the_planned_number_masked(kappa: Any) -> None:
    """Also where all scores tie: the toy is uniform."""
    flat = small_toy(length=13, scale=0.0)
    for toy in (flat, small_toy(3, length=13)):
        for step, unknown in enumerate(masks(P2(kappa), toy, 13, 5), start=1):
            share = float(KAPPAS[kappa](torch.tensor(step / 5).double()))
            assert int(unknown.sum()) == math.floor(13 * (1 - share) + 1e-9)


def test_whole_quotas_survive_rounding() -> None:
    """10 (1 - 9 / 10) is 1, though it is 0.9999999999999998 in float64."""
    share = 1.0 - torch.tensor([9]).double() / 10
    assert float(10 * share) < 1.0
    assert floor_share(torch.tensor([10]), share).tolist() == [1]


@pytest.mark.parametrize("score", ["confidence", "margin", "random"])
@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0])
def test_eta_zero_never_masks_again(score: Any, scale: float) -> None:
    """Scale 0: all scores tie.  Scale 30: log-probabilities round to 0, as of written positions."""
    sampler = P2(eta=0.0, score=score)
    assert not sampler.revises
    previous = torch.ones(4, 13).bool()
    for unknown in masks(sampler, small_toy(2, 13, scale=scale), 13, 6, rows=4):
        assert not bool((unknown & ~previous).any())
        previous = unknown


def test_eta_above_zero_does_mask_again() -> None:
    """Control of the test above: written positions come back, more of them with a larger eta."""

    def remasked(eta: float, score: Any) -> int:
        seen = masks(P2(eta=eta, score=score), small_toy(2, 13), 13, 6, rows=200)
        return sum(int((b & ~a).sum()) for a, b in itertools.pairwise(seen))

    for score in ("confidence", "margin", "random"):
        assert 0 < remasked(0.5, score) < remasked(1.0, score) < remasked(2.0, score), score


def chain_rule(sampler: P2, steps: int) -> Rule:
    """P2 in plain Python: one proposal everywhere, score, mask the lowest, write the rest."""

    def rule(
        tokens: Tokens, memory: Any, logp: LogProbs, proposal: Tokens, step: int
    ) -> list[tuple[float, Tokens, Any]]:
        keep = math.floor(LENGTH * (1 - (step + 1) / steps) + 1e-9)
        scores: list[float] = []
        for i, token in enumerate(tokens):
            named = proposal[i] if token == MASK or sampler.score_token == "proposal" else token
            scores.append(logp[i][named] * (1.0 if token == MASK else sampler.eta))
        low = lowest(scores, keep)
        after = tuple(
            MASK if i in low else proposal[i] if token == MASK else token
            for i, token in enumerate(tokens)
        )
        return [(1.0, after, None)]

    return rule


@pytest.mark.parametrize("sampler", [P2(), P2(eta=0.5), P2(eta=2.0), P2(score_token="current")])
def test_the_law_is_that_of_the_rule(sampler: P2) -> None:
    """5,000 draws of the loop against the enumeration of all proposals."""
    toy, steps = small_toy(3), 3
    law = exact_law(toy, chain_rule(sampler, steps), steps)
    out = run(toy, sampler, rows=ROWS, steps=steps, law=TokenLaw(), return_trajectory=False)
    assert chi_square(count_states(out.tokens, SYMBOLS), law).p > P_LIMIT


def test_a_wrong_eta_is_found() -> None:
    """Negative control of the test above."""
    toy, steps = small_toy(3), 3
    law = exact_law(toy, chain_rule(P2(eta=0.5), steps), steps)
    out = run(toy, P2(eta=2.0), rows=ROWS, steps=steps, law=TokenLaw(), return_trajectory=False)
    assert chi_square(count_states(out.tokens, SYMBOLS), law).p < P_LIMIT


def test_random_scores_mask_a_uniform_subset() -> None:
    """eta 1: every subset of the planned size is equally likely, written positions included."""
    toy, steps = small_toy(5), 3

    def rule(
        tokens: Tokens, memory: Any, logp: LogProbs, proposal: Tokens, step: int
    ) -> list[tuple[float, Tokens, Any]]:
        subsets = list(itertools.combinations(range(LENGTH), LENGTH - 1 - step))
        return [
            (
                1.0 / len(subsets),
                tuple(
                    MASK if i in low else proposal[i] if v == MASK else v
                    for i, v in enumerate(tokens)
                ),
                None,
            )
            for low in subsets
        ]

    sampler = create("p2-random")
    out = run(toy, sampler, rows=ROWS, steps=steps, law=TokenLaw(), return_trajectory=False)
    assert chi_square(count_states(out.tokens, SYMBOLS), exact_law(toy, rule, steps)).p > P_LIMIT


def test_ancestral_preset_is_the_exact_any_order_law() -> None:
    """eta 0, random scores, one token per step: the joint law itself."""
    generator = torch.Generator().manual_seed(4)
    joint = torch.rand(3, 3, 3, generator=generator, dtype=torch.float64)
    out = run(EnumerableDenoiser(joint), create("p2-ancestral"), rows=ROWS, return_trajectory=False)
    assert chi_square(count_states(out.tokens, 3), joint.flatten()).p > P_LIMIT
    assert bool((out.nfe == 3).all())


def test_one_token_per_step_solves_sudoku() -> None:
    tokens = torch.zeros(40, 16, dtype=torch.int64)
    for score in ("confidence", "margin", "random"):
        sampler = P2(eta=0.0, score=score)
        out = sample(
            SudokuOracle(),
            sampler,
            tokens,
            torch.ones_like(tokens).bool(),
            seeds=ops.row_seeds(3, 40),
        )
        assert bool(is_valid(out.tokens).all()), score


def test_greedy_without_remasking_is_llada() -> None:
    """eta 0 and the linear schedule write the most confident n / N positions per step."""
    toy = small_toy(11, 12, 7)
    greedy = TokenLaw(temperature=0.0)
    ours = run(toy, P2(eta=0.0), length=12, steps=4, law=greedy)
    theirs = run(toy, LLaDA(), length=12, steps=4, law=greedy)
    assert torch.equal(ours.tokens, theirs.tokens)


@pytest.mark.parametrize("name", ["p2", "p2-ancestral", "p2-random"])
def test_one_block_is_no_blocks(name: str) -> None:
    toy = small_toy(1, 12, 7)
    whole = run(toy, create(name), length=12, steps=5, rows=3)
    block = run(toy, create(name), length=12, steps=5, rows=3, block_length=12)
    assert torch.equal(whole.tokens, block.tokens)
    assert torch.equal(whole.nfe, block.nfe)


def test_a_step_that_changes_nothing_costs_nothing() -> None:
    """5 positions, 20 steps: without remasking at most 5 forwards."""
    out = run(small_toy(1, 5), P2(eta=0.0), length=5, steps=20)
    assert int(out.nfe[0]) == 5


class Planner(FixtureToy):
    """Finds token 0 bad wherever it stands, and remembers what it was shown."""

    def __init__(self, length: int, vocab_size: int) -> None:
        super().__init__(
            torch.zeros(vocab_size, vocab_size), torch.zeros(length, vocab_size), vocab_size - 1
        )
        self.seen: list[Tensor] = []

    def forward(self, inputs: Pass) -> DenoiserOutput:
        self.seen.append(inputs.tokens.clone())
        logits = torch.zeros(*inputs.tokens.shape, self.vocab_size, dtype=torch.float64)
        logits[..., 0] = -30.0
        return DenoiserOutput(logits)


def test_the_planner_decides_what_is_masked_again_and_counts() -> None:
    """Score of the current token: no other written token is masked again while a 0 is kept."""
    length, steps = 8, 8
    toy, planner = small_toy(0, length), Planner(length, 4)
    sampler = P2(planner=planner, score_token="current", eta=1.0)
    out = run(toy, sampler, length=length, steps=steps, rows=64, law=TokenLaw())
    assert out.trajectory is not None
    removed = 0
    for event in out.trajectory.events[1:-1]:
        written, after = event.before != MASK, event.tokens == MASK
        zeros = written & (event.before == 0)
        others = (written & ~zeros & after).any(1)
        assert not bool((others & (zeros & ~after).any(1)).any())
        removed += int((zeros & after).sum())
    assert removed > 50
    # The first step has nothing written to score, the last masks nothing.
    assert len(planner.seen) == steps - 2
    assert bool((out.nfe == steps + steps - 2).all())


def test_what_the_planner_sees() -> None:
    """Merged: known tokens as they are, no mask.  Released: the proposal everywhere."""
    length, prompt = 9, [1, MASK, 2]  # the prompt may hold the mask id
    toy = small_toy(0, length)
    merged, raw = Planner(length, 4), Planner(length, 4)
    out = run(
        toy, P2(planner=merged), length=length, prompt=prompt, steps=4, rows=5, law=TokenLaw()
    )
    assert out.trajectory is not None
    for shown, event in zip(merged.seen, out.trajectory.events[1:], strict=False):
        written = event.before != MASK
        assert torch.equal(shown[written], event.before[written])
        assert not bool((shown == MASK)[:, len(prompt) :].any())
    released = P2(planner=raw, planner_input="proposal")
    out = run(toy, released, length=length, prompt=prompt, steps=4, rows=5, law=TokenLaw())
    assert out.trajectory is not None
    first, second, *_ = [event.log_confidence for event in out.trajectory.events]
    assert first is not None and second is not None
    # Nothing is written yet in the first step, so that no proposal for the prompt is read.
    assert not bool(first[:, :3].any()) and bool(second[:, :3].all())
    assert any(
        not torch.equal(shown[:, :3], torch.tensor(prompt).expand(5, 3)) for shown in raw.seen
    )
    assert not any(bool((shown == MASK).any()) for shown in raw.seen)


def test_deviation_ties_mask_fewer_in_the_released_code() -> None:
    """A four-way tie, two to mask: the released cutoff masks none; `ties` restores it."""
    flat = small_toy(length=4, scale=0.0)
    assert [int(u.sum()) for u in masks(P2(), flat, 4, 2)] == [2, 0]
    assert [int(u.sum()) for u in masks(P2(ties="released"), flat, 4, 2)] == [0, 0]


def test_released_ties_agree_where_there_are_none() -> None:
    toy = small_toy(8, 12, 7)
    ours, theirs = (
        run(toy, P2(ties=ties), length=12, steps=5, rows=20) for ties in ("exact", "released")
    )
    assert torch.equal(ours.tokens, theirs.tokens)


def test_errors_name_the_field_and_what_is_allowed() -> None:
    with pytest.raises(ValueError, match=r"eta=-1\.0: must be finite and >= 0"):
        P2(eta=-1.0)
    with pytest.raises(ValueError, match=r"kappa='cosine': must be one of linear, sine"):
        P2(kappa="cosine")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="score_token='x'"):
        P2(score_token="x")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="planner is a str"):
        P2(planner="bert")  # type: ignore[arg-type]

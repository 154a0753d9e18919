"""RDM: exact laws of both conditions, quotas, reductions, deviations from the released code."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from dlm_sampling.samplers import LLaDA, create
from dlm_sampling.samplers.parts.quotas import below_cutoff, lowest_positions
from dlm_sampling.samplers.rdm import RDM, RDM_PRESETS
from dlm_sampling.testing import chi_square, count_states
from dlm_sampling.types import Canvas, TokenLaw
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

ROWS, STEPS = 5_000, 4
P_LIMIT = 1e-4
NOTHING = (0.0,) * LENGTH
RATES = {
    "linear": lambda i: 1 - (i + 1) / STEPS,
    "cosine": lambda i: math.cos(math.pi * (i + 1) / (2 * STEPS)),
}


def chain_rule(sampler: RDM) -> Rule:
    """RDM in plain Python; the memory is the score that each written token was written with."""

    def rule(
        tokens: Tokens, memory: Any, logp: LogProbs, proposal: Tokens, step: int
    ) -> list[tuple[float, Tokens, Any]]:
        scores = [logp[i][v] for i, v in enumerate(proposal)]
        low = lowest(scores, math.floor(LENGTH * RATES[sampler.mask_schedule](step) + 1e-9))
        after, kept = list(tokens), list(memory)
        for i, token in enumerate(tokens):
            repeats = proposal[i] == token and scores[i] < memory[i]
            if token == MASK and i not in low:
                after[i], kept[i] = proposal[i], scores[i]
            elif token != MASK and i in low and (repeats or not sampler.conditional):
                after[i], kept[i] = MASK, -math.inf
        return [(1.0, tuple(after), tuple(kept))]

    return rule


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_law_is_that_of_the_rule(conditional: bool, schedule: Any) -> None:
    """5,000 draws of the loop against the enumeration of all proposals."""
    sampler, toy = RDM(conditional, mask_schedule=schedule), small_toy(7)
    law = exact_law(toy, chain_rule(sampler), STEPS, NOTHING)
    out = run(toy, sampler, rows=ROWS, steps=STEPS, law=TokenLaw(), return_trajectory=False)
    assert chi_square(count_states(out.tokens, SYMBOLS), law).p > P_LIMIT


def test_the_two_conditions_differ() -> None:
    """Negative control: the law of one condition refuses the draws of the other."""
    toy = small_toy(7)
    law = exact_law(toy, chain_rule(RDM(conditional=True, mask_schedule="linear")), STEPS, NOTHING)
    out = run(
        toy,
        RDM(mask_schedule="linear"),
        rows=ROWS,
        steps=STEPS,
        law=TokenLaw(),
        return_trajectory=False,
    )
    assert chi_square(count_states(out.tokens, SYMBOLS), law).p < P_LIMIT


def unknown_after(sampler: RDM, length: int, steps: int, scale: float = 1.0) -> Tensor:
    """Unknown positions after each step, [steps, rows, length]."""
    toy, law = small_toy(2, length, 7, scale), TokenLaw()
    out = run(toy, sampler, length=length, steps=steps, rows=50, law=law)
    assert out.trajectory is not None
    return torch.stack([event.unknown for event in out.trajectory.events])


def test_unconditional_routing_leaves_exactly_the_planned_number() -> None:
    for noise in (0.0, 2.0):
        counts = unknown_after(RDM(noise_scale=noise), 13, 7).sum(2)
        expected = [math.floor(13 * math.cos(math.pi * i / 14) + 1e-9) for i in range(1, 8)]
        assert torch.equal(counts, torch.tensor(expected).unsqueeze(1).expand(7, 50))


def test_both_conditions_mask_again() -> None:
    """The conditional rule does so far less often."""
    seen = [unknown_after(RDM(conditional), 13, 7) for conditional in (False, True)]
    counts = [int((unknown[1:] & ~unknown[:-1]).sum()) for unknown in seen]
    assert 0 < counts[1] < counts[0] / 5


def test_an_equal_score_is_no_lower_one() -> None:
    """Fixed logits repeat every token with its score: the conditional rule masks nothing again."""
    toy = small_toy(4, 12, 7)
    toy.embedding.zero_()
    again = []
    for conditional in (False, True):
        rule = RDM(conditional, noise_scale=5.0)
        out = run(toy, rule, length=12, rows=8, steps=6, law=TokenLaw(temperature=0.0))
        assert out.trajectory is not None
        again.append(
            sum(int((e.unknown & (e.before != e.tokens)).sum()) for e in out.trajectory.events)
        )
    assert again[0] > 10 and again[1] == 0


def test_the_noise_of_the_ranking_fades() -> None:
    """Large noise makes the first order random; the token that is surest is often passed over."""
    sure, noisy = unknown_after(RDM(), 13, 7), unknown_after(RDM(noise_scale=50.0), 13, 7)
    spread = [u[0].double().mean(0).std() for u in (sure, noisy)]
    assert spread[1] < 0.5 * spread[0]


def test_greedy_and_sure_is_llada() -> None:
    """With fixed logits no score changes, so nothing is masked again: linear is LLaDA's rule."""
    toy = small_toy(4, 12, 7)
    toy.embedding.zero_()
    greedy = TokenLaw(temperature=0.0)
    ours = run(toy, RDM(mask_schedule="linear"), length=12, steps=4, law=greedy)
    theirs = run(toy, LLaDA(), length=12, steps=4, law=greedy)
    assert ours.trajectory is not None and theirs.trajectory is not None
    for a, b in zip(ours.trajectory.events, theirs.trajectory.events, strict=True):
        assert torch.equal(a.tokens, b.tokens)


@pytest.mark.parametrize("name", ["rdm", "rdm-conditional"])
def test_one_block_is_no_blocks(name: str) -> None:
    toy = small_toy(1, 12, 7)
    whole = run(toy, create(name), length=12, steps=5, rows=3, law=TokenLaw())
    block = run(toy, create(name), length=12, steps=5, rows=3, law=TokenLaw(), block_length=12)
    assert torch.equal(whole.tokens, block.tokens)


def test_scores_of_a_block_are_not_read_in_the_next() -> None:
    """Two blocks equal the second block alone after the first as a prompt."""
    toy = small_toy(3, 12, 7)
    greedy = TokenLaw(temperature=0.0)
    both = run(toy, RDM(True), length=12, steps=8, law=greedy, block_length=6)
    first = both.tokens[0, :6].tolist()
    # A bare prompt must hide nothing: the toy sees the masks to come in both runs.
    second = run(toy, RDM(True), length=12, prompt=first, steps=4, law=greedy)
    assert torch.equal(both.tokens, second.tokens)


def test_deviation_the_released_cutoff_takes_one_too_many_near_zero() -> None:
    """score < sorted[k] + 1e-10 takes k + 1 where the addend survives, and k where it does not."""
    among, k = torch.ones(1, 4).bool(), torch.tensor([2])
    near = torch.tensor([[-4e-11, -3e-11, -2e-11, 0.0]], dtype=torch.float64)
    far = torch.tensor([[-4.0, -3.0, -2.0, -1.0]])  # float32, as released
    assert lowest_positions(near, among, k).tolist() == [[True, True, False, False]]
    assert below_cutoff(near, among, k, 1e-10).tolist() == [[True, True, True, True]]
    assert below_cutoff(far, among, k, 1e-10).tolist() == [[True, True, False, False]]
    tied = torch.tensor([[-4.0, -2.0, -2.0, -2.0]])
    assert below_cutoff(tied, among, k).sum() == 1  # P2's cutoff: ties make it fewer
    assert lowest_positions(tied, among, k).sum() == 2


def test_deviation_a_sure_model_leaves_a_mask_in_the_released_code() -> None:
    """k = 0 in the last step still selects one position there, and the loop has to fill it."""
    length, steps = 6, 3
    for cutoff, forwards in (("exact", steps), ("released", steps + 1)):
        toy = small_toy(2, length, scale=1e4)
        out = run(toy, RDM(cutoff=cutoff), length=length, steps=steps)  # type: ignore[arg-type]
        assert not bool((out.tokens == MASK).any())
        assert int(out.nfe[0]) == forwards


def test_presets_of_the_authors() -> None:
    assert RDM_PRESETS["iwslt"].conditional and not RDM_PRESETS["wmt14"].conditional
    assert RDM_PRESETS["wmt16"].noise_scale == 1.0 and RDM_PRESETS["qqp"].noise_scale == 5.0
    assert {p.mask_schedule for p in RDM_PRESETS.values()} == {"cosine"}
    assert create("rdm-conditional") == RDM_PRESETS["iwslt"]


def test_errors_name_the_field_and_what_is_allowed() -> None:
    with pytest.raises(ValueError, match="mask_schedule='sine': must be one of cosine, linear"):
        RDM(mask_schedule="sine")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"noise_scale=-1\.0: must be finite and >= 0"):
        RDM(noise_scale=-1.0)


def test_a_step_draws_where_something_can_change() -> None:
    """Written positions unless all masks are written now; nothing where all stay masked."""
    editable = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 1]]).bool()
    unknown = torch.tensor([[1, 0, 0, 0], [0, 0, 0, 1], [1, 1, 1, 1]]).bool()
    tokens = torch.zeros(3, 4, dtype=torch.int64).masked_fill(unknown, 5)
    canvas = Canvas(tokens, unknown, editable, torch.zeros(3).long(), 5)
    for k, wanted in (
        ([0, 0, 0], [[1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]]),
        ([1, 2, 3], [[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 1]]),
        ([3, 3, 4], [[1, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, 0]]),
    ):
        found = RDM().drawn(canvas, torch.tensor(k))
        assert found.int().tolist() == wanted
        assert torch.equal(RDM(cutoff="released").drawn(canvas, torch.tensor(k)), editable)

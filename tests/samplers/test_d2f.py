"""Pipelines of blocks: the rule of D2F and d3LLM written out in Python, and one block at a time."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from dlm_sampling import Rollout, replay, sample, samplers, wrap
from dlm_sampling.engine.output import SampleOutput
from dlm_sampling.likelihood.branching import branch
from dlm_sampling.samplers import D2F, D3LLM, FastDLLM
from dlm_sampling.samplers.parts.pipelines import positions_in_blocks
from dlm_sampling.types import Canvas, Choice, Clock, TokenLaw, UnderWay

MASK, LENGTH, WIDTH, PROMPT = 4, 14, 3, 2
TABLE = 2.0 * torch.randn(LENGTH, 4, generator=torch.Generator().manual_seed(2))
MIX = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(3))
ROWS = 6


def network(ids: Tensor) -> Tensor:
    """A law that depends on place, left neighbour, and how many tokens of each kind are shown."""
    shown = torch.nn.functional.one_hot(ids, 5).float().mean(1, keepdim=True)
    rows = TABLE[: ids.shape[1]] + MIX[0][ids.roll(1, 1)] + 6.0 * shown @ MIX[1]
    return torch.nn.functional.pad(rows, (0, 1), value=-40.0)


def run(sampler: Any, temperature: float = 0.0, **options: Any) -> SampleOutput:
    tokens = torch.arange(ROWS).unsqueeze(1).expand(-1, LENGTH) % 4
    editable = torch.arange(LENGTH).expand(ROWS, -1) >= PROMPT
    denoiser = wrap(network, vocab_size=5, mask_token_id=MASK)
    given: dict[str, Any] = {"block_length": WIDTH, "seeds": range(ROWS), **options}
    law = TokenLaw(temperature=temperature)
    return sample(denoiser, sampler, tokens, editable, law=law, return_trajectory=True, **given)


def by_hand(sampler: D2F | D3LLM, row: int, causal: bool) -> list[list[int]]:
    """The positions that each greedy step writes, and the tokens at the end, in lists."""
    ids = [row % 4] * PROMPT + [MASK] * (LENGTH - PROMPT)
    blocks = [list(range(i, min(i + WIDTH, LENGTH))) for i in range(PROMPT, LENGTH, WIDTH)]
    steps: list[list[int]] = []
    first = last = 0

    def known(b: int) -> float:
        return sum(ids[i] != MASK for i in blocks[b]) / len(blocks[b])

    while True:
        seen = blocks[last][-1] + 1 if causal else LENGTH
        laws = network(torch.tensor([ids[:seen]]))[0].softmax(1).tolist()
        chosen: list[int] = []
        for b in range(first, last + 1):
            open_ = [i for i in blocks[b] if ids[i] == MASK]
            if isinstance(sampler, D2F):
                score = {i: max(laws[i]) for i in open_}
                least = sampler.threshold
                moves = b == 0 or known(b - 1) >= sampler.activate
            else:
                score = {i: sum(p * math.log(p) for p in laws[i] if p > 0) for i in open_}
                least, moves = -sampler.bound, b == first
            passed = [i for i in open_ if score[i] >= least]
            if moves and not passed and open_:
                passed = [max(open_, key=lambda i: score[i])]
            chosen += passed
        for i in chosen:
            ids[i] = max(range(4), key=lambda v: laws[i][v])
        steps.append(chosen)
        ready = known(last) >= sampler.add and last + 1 < len(blocks)
        first = next((b for b in range(first, last + 1) if known(b) < 1), last + 1)
        if ready and (sampler.buffer is None or last + 1 - first < sampler.buffer):
            last += 1
        if first > last:
            return [*steps, ids]


CASES = [  # with or without what is right of the last block
    (D2F(0.7, add=0.3, activate=0.6), True),
    (D2F(0.8, add=0.3, activate=0.6, buffer=2), False),
    (D2F(0.75, add=0.6, activate=1.0), True),
    (D2F(1.2, add=0.3, activate=0.3, buffer=3), True),
    (D3LLM(0.7, add=0.1), False),
    (D3LLM(0.4, add=0.3, buffer=2), True),
]


@pytest.mark.slow
@pytest.mark.parametrize(("sampler", "causal"), CASES, ids=repr)
def test_the_rule_written_out(sampler: D2F | D3LLM, causal: bool) -> None:
    out, together = run(sampler, causal_blocks=causal), 0
    assert out.trajectory is not None
    for row in range(ROWS):
        *steps, tokens = by_hand(sampler, row, causal)
        events = out.trajectory.steps(row)
        written = [event.written[i].nonzero().flatten().tolist() for event, i in events]
        assert written == steps
        assert out.tokens[row].tolist() == tokens
        assert int(out.nfe[row]) == len(steps)
        for event, i in events:
            assert event.last is not None
            together += int(event.last[i] - event.block[i])
    assert together > 3  # several blocks are under way in many steps


@cache
def one_after_the_other(causal: bool) -> SampleOutput:
    return run(FastDLLM(0.6), 1.0, causal_blocks=causal)


@pytest.mark.slow
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("sampler", [D2F(0.6, buffer=1, add=0.1), D2F(0.6, add=1.0)], ids=repr)
def test_one_block_at_a_time_is_the_rule_of_single_blocks(sampler: D2F, causal: bool) -> None:
    out, single = run(sampler, 1.0, causal_blocks=causal), one_after_the_other(causal)
    assert torch.equal(out.tokens, single.tokens)
    assert torch.equal(out.logprob, single.logprob)
    assert torch.equal(out.nfe, single.nfe)
    torch.testing.assert_close(out.work, single.work)


@pytest.mark.slow
def test_a_pipeline_takes_fewer_passes_and_a_budget_still_holds() -> None:
    single, out = one_after_the_other(True), run(D2F(0.6, add=0.3), 1.0, causal_blocks=True)
    assert int(out.nfe.sum()) < int(single.nfe.sum())
    for most in (4, 5):
        bounded = run(D2F(0.6, add=0.3), 1.0, causal_blocks=True, max_nfe=most)
        assert int(bounded.nfe.max()) <= most
        assert not bool((bounded.tokens == MASK).any())
    assert torch.equal(
        run(D2F(0.6, add=0.3), 1.0, causal_blocks=True, max_nfe=14).tokens, out.tokens
    )


@pytest.mark.slow
def test_a_rollout_knows_what_was_hidden_and_branches() -> None:
    """What each step saw follows from the last block under way, which a rollout keeps."""
    sampler, denoiser = D2F(0.6, add=0.3), wrap(network, vocab_size=5, mask_token_id=MASK)
    out = run(sampler, 1.0, causal_blocks=True)
    rollout = Rollout.from_output(out)
    torch.testing.assert_close(
        replay(denoiser, rollout).logprob.float(), out.logprob.float(), atol=1e-5, rtol=0
    )
    again = branch(denoiser, rollout, 1, seeds=range(ROWS))  # the seeds of the run: its own end
    assert torch.equal(again.tokens, out.tokens)


@pytest.mark.slow
@pytest.mark.parametrize("fills", [False, True])
def test_no_block_joins_behind_an_end_of_text(fills: bool) -> None:
    options: dict[str, Any] = {"stop_token_ids": (1, 2), "fill_behind_stop": fills}
    out = run(D2F(0.9, add=0.3), 1.0, **options)
    assert out.trajectory is not None
    assert bool(out.ended.any())
    seen = 0
    for row in range(ROWS):
        last = None
        for event, i in out.trajectory.steps(row):
            assert event.last is not None
            if last is not None and not fills:
                assert int(event.last[i]) <= last
            stops = torch.isin(event.tokens[i], torch.tensor([1, 2])) & (
                torch.arange(LENGTH) >= PROMPT
            )
            if bool((stops & ~event.unknown[i]).any()) and not bool(event.final[i]):
                last, seen = int(event.last[i]), seen + 1
    assert fills or seen > 1


@pytest.mark.parametrize("made", [D2F, D3LLM])
def test_numbers_out_of_range_are_named(made: Any) -> None:
    for fields, words in (
        ({"add": 0.0}, r"add=0.0: must be in \(0, 1\]"),
        ({"add": 1.1}, "add=1.1"),
        ({"buffer": 0}, "buffer=0: must be at least 1"),
    ):
        with pytest.raises(ValueError, match=words):
            made(**fields)
    with pytest.raises(ValueError, match=r"activate=1\.5"):
        D2F(activate=1.5)
    with pytest.raises(ValueError, match=r"bound=-0\.5: must be finite and >= 0"):
        D3LLM(bound=-0.5)


def test_a_score_at_the_threshold_passes_in_every_block() -> None:
    """Blocks of two: the best of the first must move, the second writes what passes alone."""
    ones = torch.ones(1, 4, dtype=torch.bool)
    number, start = torch.tensor([[0, 0, 1, 1]]), torch.zeros(1).long()
    blocks = UnderWay(number, number == 0, start, 2)
    canvas = Canvas(torch.full((1, 4), MASK), ones, ones, start, MASK, blocks)
    for scores, wanted in (
        ([-0.5, -0.6, -0.5, -0.6], [True, False, True, False]),
        ([-0.7, -0.6, -0.7, -0.6], [False, True, False, False]),
        ([-0.5, -0.5, -0.6, -0.5], [True, True, False, True]),
    ):
        for every in (False, True):
            found = positions_in_blocks(torch.tensor([scores]), canvas, -0.5, every=every)
            assert found.tolist() == [wanted]


def test_the_choice_is_certain_where_draws_are_an_argmax() -> None:
    """Confidence of a drawn token depends on the draw; entropy does not."""
    ones = torch.ones(2, 3, dtype=torch.bool)
    canvas = Canvas(torch.full((2, 3), MASK), ones, ones, torch.zeros(2).long(), MASK)
    clock = Clock(torch.tensor([0, 0]), torch.tensor([2, 2]))
    for greedy in (False, True):
        choice = Choice(ones, ~ones, greedy=greedy)
        found = [made.choice_logprob(canvas, clock, choice) for made in (D2F(), D3LLM())]
        listed = [None if each is None else each.tolist() for each in found]
        assert listed == [[0.0, 0.0] if greedy else None, [0.0, 0.0]]


def test_blocks_have_32_positions_by_default() -> None:
    tokens = torch.zeros(1, 80, dtype=torch.int64)
    denoiser = wrap(lambda ids: torch.zeros(*ids.shape, 5), vocab_size=5, mask_token_id=MASK)
    out = sample(
        denoiser,
        samplers.create("d2f"),
        tokens,
        tokens == 0,
        seeds=[0],
        max_nfe=6,
        return_trajectory=True,
    )
    assert out.trajectory is not None
    assert max(int(event.last) for event in out.trajectory.events if event.last is not None) == 2

"""ReMDM's loop on LLaDA decoding: phases, cost, and the reduction to LLaDA."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dlm_sampling.engine.sample import sample
from dlm_sampling.samplers import LLaDA, ReMDMLLaDA
from dlm_sampling.types import TokenLaw
from tests.samplers.small import run, small_toy

VOCAB, MASK = 9, 8


def go(sampler: Any, length: int, **options: Any) -> Any:
    return run(small_toy(7, length, VOCAB), sampler, length=length, **options)


@pytest.mark.parametrize(("length", "steps"), [(12, 12), (12, 5), (7, 20)])
@pytest.mark.parametrize("ratio", [0.0, 0.5, 1.0])
def test_without_loops_it_is_llada(length: int, steps: int, ratio: float) -> None:
    for law in (TokenLaw(temperature=0.0), TokenLaw()):
        options: dict[str, Any] = {"rows": 6, "steps": steps, "law": law}
        ours, reference = (
            go(ReMDMLLaDA(ratio, 0), length, **options),
            go(LLaDA(), length, **options),
        )
        assert torch.equal(ours.tokens, reference.tokens)
        assert torch.equal(ours.nfe, reference.nfe)


@pytest.mark.parametrize(("ratio", "k", "loops"), [(0.875, 1, 4), (0.5, 3, 2), (1.0, 2, 5)])
def test_each_loop_costs_two_forwards_and_keeps_the_count(ratio: float, k: int, loops: int) -> None:
    length, steps = 16, 8
    out = go(ReMDMLLaDA(ratio, loops, k), length, steps=steps, law=TokenLaw())
    assert int(out.nfe[0]) == steps + 2 * loops
    unknown = [int(e.unknown.sum()) for e in out.trajectory.events]
    first = round(steps * ratio)
    for loop in range(loops):
        before = unknown[first - 1]
        assert unknown[first + 2 * loop] == before + k
        assert unknown[first + 2 * loop + 1] == before
    assert unknown[-1] == 0


def test_the_least_probable_tokens_are_masked() -> None:
    length = 10
    toy = small_toy(7, length, VOCAB)
    out = run(toy, ReMDMLLaDA(0.5, 1, 2), length=length, steps=10, law=TokenLaw())
    assert out.trajectory is not None
    event = out.trajectory.events[5]
    own = toy.logits(event.before)
    own[..., MASK] = float("-inf")
    p = own.log_softmax(-1).gather(2, event.before.unsqueeze(2)).squeeze(2)[0]
    known = (event.before[0] != MASK).nonzero().squeeze(1)
    lowest = known[p[known].argsort()[:2]]
    assert set(event.unknown[0].nonzero().squeeze(1).tolist()) - set(
        (event.before[0] == MASK).nonzero().squeeze(1).tolist()
    ) == set(lowest.tolist())


def test_rows_loop_at_steps_of_their_own() -> None:
    """One step for each token: rows of unlike lengths begin their loops at unlike steps."""
    sampler, toy, lengths = ReMDMLLaDA(0.5, 2, 2), small_toy(7, 10, VOCAB), (10, 6, 8)
    editable = torch.arange(10) < torch.tensor(lengths).unsqueeze(1)
    tokens, seeds = torch.ones(3, 10, dtype=torch.int64), [4, 5, 6]
    together = sample(toy, sampler, tokens, editable, seeds=seeds, law=TokenLaw())
    for row, seed in enumerate(seeds):
        here = slice(row, row + 1)
        alone = sample(toy, sampler, tokens[here], editable[here], seeds=[seed], law=TokenLaw())
        assert together.tokens[here].equal(alone.tokens)
        assert together.logprob[here].equal(alone.logprob)
        assert int(together.nfe[row]) == int(alone.nfe) == lengths[row] + 2 * 2


def test_a_loop_without_written_tokens_costs_nothing() -> None:
    """The released code skips such loops."""
    out = go(ReMDMLLaDA(0.0, 3, 1), 6, steps=6)
    assert int(out.nfe[0]) == 6


def test_more_tokens_per_loop_than_there_are() -> None:
    out = go(ReMDMLLaDA(0.5, 2, 50), 6, steps=6)
    assert not bool((out.tokens == MASK).any())
    assert int(out.nfe[0]) == 6 + 4


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"init_unmask_ratio": 1.2}, "init_unmask_ratio=1.2"),
        ({"loop_steps": -1}, "loop_steps=-1"),
        ({"unmask_k": 0}, "unmask_k=0"),
    ],
)
def test_fields_out_of_range_are_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ReMDMLLaDA(**fields)

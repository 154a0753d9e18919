"""Which blocks are under way, on canvases whose known positions are set by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from dlm_sampling import sample, wrap
from dlm_sampling.engine.blocks import UNLIMITED, plan_blocks
from dlm_sampling.engine.windows import Windows
from dlm_sampling.samplers import D2F
from dlm_sampling.types import Pipeline

# Blocks of 3 from column 2: 2-4, 5-7, (8-10 holds context only), 11-13 and 14-15.
EDITABLE = torch.ones(1, 16, dtype=torch.bool)
EDITABLE[0, [0, 1, 5, 8, 9, 10]] = False
PLAN = plan_blocks(EDITABLE, 3, None)
NO_STOPS = torch.zeros(0, dtype=torch.int64)


def windows(add: float, activate: float, buffer: int | None, stops: Tensor = NO_STOPS) -> Windows:
    limits = torch.full_like(PLAN.steps, UNLIMITED)
    return Windows.of(PLAN, limits, EDITABLE, Pipeline(add, activate, buffer), stops)


def state(block: int, last: int, known: list[int], tokens: Tensor | None = None) -> Any:
    """One row, of which some editable columns are known."""
    unknown = EDITABLE.clone()
    unknown[0, known] = False
    return SimpleNamespace(
        rows=torch.tensor([0]), block=torch.tensor([block]), last=torch.tensor([last]),
        unknown=unknown, editable=EDITABLE, may_stop=torch.tensor([True]),
        tokens=torch.zeros(1, 16).long() if tokens is None else tokens,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("numbers", "block", "last", "known", "found"),
    [
        ((0.5, 1.0, None), 0, 0, [2], (0, 0)),  # a third is less than half
        ((0.5, 1.0, None), 0, 0, [2, 4], (0, 1)),
        ((0.5, 1.0, None), 0, 1, [2, 4, 7], (0, 2)),  # one of the two positions of 5-7
        ((0.5, 1.0, None), 0, 1, [2, 4, 6, 7], (0, 2)),  # a complete block waits for the first
        ((0.5, 1.0, 2), 0, 1, [2, 4, 6, 7], (0, 1)),  # where it takes room
        ((0.5, 1.0, 2), 0, 1, [2, 3, 4, 6], (1, 2)),
        ((0.5, 1.0, 2), 0, 1, [2, 3, 4, 6, 7], (2, 2)),
        ((0.5, 1.0, None), 2, 3, [2, 3, 4, 6, 7, 11, 12, 13, 14, 15], (4, 3)),
    ],
)
def test_complete_blocks_leave_and_one_joins(
    numbers: tuple[float, float, int | None],
    block: int,
    last: int,
    known: list[int],
    found: tuple[int, int],
) -> None:
    of, at = windows(*numbers), state(block, last, known)
    first, end = of.next(at, torch.tensor([False]))
    assert end is not None
    assert (int(first), int(end)) == found
    assert bool(of.moved(at)) == (found != (block, last))


def test_no_block_joins_where_an_end_of_text_is_written() -> None:
    tokens = torch.zeros(1, 16).long()
    tokens[0, [0, 2]] = 7  # in the prompt, and at a known position
    of = windows(0.1, 1.0, None, torch.tensor([7]))
    ends, open_ = state(0, 0, [2, 3], tokens), state(0, 0, [3, 4], tokens)
    assert not bool(of.moved(ends))
    assert bool(of.moved(open_))  # what is unknown holds no token
    ends.may_stop = torch.tensor([False])
    assert bool(of.moved(ends))


def test_blocks_are_active_behind_those_that_are_known_far_enough() -> None:
    blocks = windows(0.5, 0.6, None).under_way(state(0, 2, [2, 3, 6]))
    assert blocks is not None
    assert (int(blocks.first), blocks.most) == (0, 5)
    assert blocks.number[0].tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 2, 2, 2, 3, 3]
    active = {int(n) for n in blocks.number[0, blocks.active[0]]}
    assert active == {0, 1}  # two thirds are enough for block 1, half is not for block 2


def test_the_widest_window() -> None:
    assert [windows(0.5, 1.0, n).width for n in (1, 2, 3, None)] == [3, 9, 12, 14]
    window = windows(0.5, 1.0, 2).at(
        torch.tensor([0]), torch.tensor([1]), torch.tensor([2]), EDITABLE
    )
    assert (int(window.start), int(window.stop)) == (5, 14)
    assert window.editable[0].nonzero().flatten().tolist() == [6, 7, 11, 12, 13]


class Planned(D2F):
    """Plans its steps."""

    def schedule_length(self, steps: int) -> int:  # type: ignore[override]
        return steps


class Revising(D2F):
    """Changes what it wrote."""

    @property
    def revises(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (Planned(), "schedule_length plans its steps"),
        (Revising(), "never change a written token"),
    ],
)
def test_blocks_that_cannot_be_written_together_are_refused(made: Any, words: str) -> None:
    tokens = torch.zeros(1, 4, dtype=torch.int64)
    denoiser = wrap(lambda ids: torch.zeros(*ids.shape, 5), vocab_size=5, mask_token_id=4)
    with pytest.raises(ValueError, match=words):
        sample(denoiser, made, tokens, tokens == 0, seeds=[0])

"""Laws that are kept from step to step: what is stored comes back at its position, or nothing."""

from __future__ import annotations

import torch

from dlm_sampling.samplers.parts.kept_laws import (
    empty_window,
    merge_draws,
    pack_table,
    recall,
    remember,
    unpack,
)
from dlm_sampling.types import Canvas, DrawRecord

START = torch.tensor([1, 0, 2])
WHERE = torch.tensor([[0, 1, 0, 1, 0], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]]).bool()
LAWS = torch.arange(12.0).view(4, 3)


def at(window: object, where: torch.Tensor, start: torch.Tensor, absent: float = 0.0) -> object:
    like = torch.zeros(int(where.sum()), 3, dtype=torch.float64)
    return recall(window, where, start, like, absent).tolist()  # pyright: ignore


def test_a_window_gives_back_what_it_holds_and_else_nothing() -> None:
    window = remember(START, [(WHERE, LAWS)])
    assert window.laws.shape == (3, 3, 3)
    every = torch.ones_like(WHERE) & (torch.arange(5) >= START.unsqueeze(1))
    wanted = torch.full((3, 5, 3), 0.0)
    wanted[WHERE] = LAWS
    assert at(window, every, START) == wanted[every].tolist()
    moved = torch.tensor([1, 1, 2])
    wanted[1] = 0.0
    every[1, 0] = False
    assert at(window, every, moved) == wanted[every].tolist()
    none = remember(START, [(WHERE, LAWS)], -1.0)
    filled = torch.full((3, 5, 3), -1.0)
    filled[WHERE] = LAWS
    assert at(none, every, START, -1.0) == filled[every].tolist()


def test_later_pieces_replace_earlier_ones_and_an_empty_window_holds_nothing() -> None:
    second = torch.tensor([[0, 1, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 1, 0, 0]]).bool()
    window = remember(START, [(WHERE, LAWS), (second, 100.0 + LAWS[:2])])
    assert at(window, second, START) == [[100.0, 101.0, 102.0], [103.0, 104.0, 105.0]]
    canvas = Canvas(torch.zeros(3, 5).long(), WHERE, WHERE, START, 9)
    assert at(empty_window(canvas), WHERE, START) == [[0.0] * 3] * 4
    nothing = remember(START, [(WHERE & False, LAWS[:0])])
    assert nothing.laws.shape == (3, 0, 3)


def test_packed_laws_are_found_at_a_subset() -> None:
    packed = pack_table(LAWS, WHERE)
    assert packed.shape == (3, 2, 3)
    assert packed[0].tolist() == LAWS[:2].tolist() and packed[1].tolist() == LAWS[2:].tolist()
    some = torch.tensor([[0, 0, 0, 1, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]]).bool()
    assert unpack(packed, WHERE, some).tolist() == LAWS[1:3].tolist()
    assert pack_table(LAWS[:0], WHERE & False).shape == (3, 0, 1)


def test_draws_are_merged_field_by_field() -> None:
    fields = [torch.full((1, 2), float(n)) for n in range(6)]
    one = DrawRecord(torch.tensor([[1, 1]]), *fields)
    other = DrawRecord(torch.tensor([[7, 7]]), *(10.0 + f for f in fields))
    found = merge_draws(torch.tensor([[True, False]]), one, other)
    assert found.token.tolist() == [[1, 7]]
    for n, part in enumerate(DrawRecord.of(found)[1:]):
        assert part.tolist() == [[float(n), 10.0 + n]]

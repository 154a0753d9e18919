"""The latent state of a network: kept by row, made anew where a row begins, cut with columns."""

from __future__ import annotations

import torch
from torch import Tensor

from dlm_sampling.prediction.carry import NO_CARRY, crop, widen


def initial(x: Tensor) -> tuple[Tensor, Tensor]:
    """A state of each row and one of each column, from the canvas."""
    return x[:, :1] * 10, x.double().unsqueeze(2).expand(-1, -1, 2)


CANVASES = torch.arange(12).view(4, 3)  # of the rows 0 to 3


def test_rows_begin_from_their_canvas_and_then_keep_what_was_written() -> None:
    rows = torch.tensor([3, 1])
    carry, (row, column) = NO_CARRY.read(initial, CANVASES[rows], rows, 4)
    assert row.tolist() == [[90], [30]]
    assert torch.equal(column, initial(CANVASES[rows])[1])
    carry = carry.write(rows, (row + 1, column + 1))

    every = torch.arange(4)
    carry, (row, column) = carry.read(initial, CANVASES, every, 4)
    assert row.tolist() == [[0], [31], [60], [91]]  # 1 and 3 go on, 0 and 2 begin
    assert torch.equal(column[1], initial(CANVASES)[1][1] + 1)
    assert torch.equal(column[2], initial(CANVASES)[1][2])


def test_a_reset_row_begins_anew_and_no_other() -> None:
    every = torch.arange(4)
    carry, state = NO_CARRY.read(initial, CANVASES, every, 4)
    carry = carry.write(every, (state[0] + 5, state[1]))
    carry = carry.reset(torch.tensor([False, True, False, False]))
    _, (row, _) = carry.read(initial, CANVASES, every, 4)
    assert row.tolist() == [[5], [30], [65], [95]]
    carry = carry.reset(torch.tensor([False, False, False, True]))  # 1 has not been read since
    _, (row, _) = carry.read(initial, CANVASES, every, 4)
    assert row.tolist() == [[5], [30], [65], [90]]
    nothing = torch.ones(4, dtype=torch.bool)
    assert NO_CARRY.reset(nothing) is NO_CARRY


def test_reading_changes_no_earlier_carry() -> None:
    """A carry is a value: the state of a step can be read again."""
    every = torch.arange(4)
    first, state = NO_CARRY.read(initial, CANVASES, every, 4)
    second = first.write(every, (state[0] + 5, state[1]))
    assert first.read(initial, CANVASES, every, 4)[1][0].tolist() == [[0], [30], [60], [90]]
    assert second.read(initial, CANVASES, every, 4)[1][0].tolist() == [[5], [35], [65], [95]]


def test_only_tensors_as_long_as_the_canvas_are_cut() -> None:
    row, column = torch.arange(4.0).view(2, 2), torch.arange(20.0).view(2, 5, 2)
    cut = crop((row, column), 1, 4, 5)
    assert torch.equal(cut[0], row)
    assert torch.equal(cut[1], column[:, 1:4])
    back = widen(cut, 1, 4, 5)
    assert torch.equal(back[0], row)
    assert torch.equal(back[1][:, 1:4], column[:, 1:4])
    assert not back[1][:, [0, 4]].any()

"""Keep token laws from one step to the next, as probabilities or as logarithms.

`LawWindow` holds the laws of the W positions of a block, [B, W, V]; `pack` puts the laws of a few
positions of each row one after the other, [B, K, V].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dlm_sampling.types import Canvas, Draw, DrawRecord, Prediction
from dlm_sampling.types.values import every, some


class LawWindow(NamedTuple):
    """Hold the laws at some positions of a window of W columns per row."""

    start: Tensor  # int64 [B], column of the first slot; -1 when nothing is held
    laws: Tensor  # [B, W, V]


def empty_window(canvas: Canvas) -> LawWindow:
    """Return a window that holds nothing."""
    none = torch.zeros(len(canvas.tokens), 0, 0, dtype=torch.float32, device=canvas.tokens.device)
    return LawWindow(torch.full_like(canvas.start, -1), none)


def remember(
    start: Tensor, pieces: Sequence[tuple[Tensor, Tensor]], absent: float = 0.0
) -> LawWindow:
    """Store laws in a new window.

    Args:
        start: int64 [B], first column of each row's window.
        pieces: (where, laws) pairs: bool [B, L] at or right of `start`, and [R, V] in row-major
            order of it.
        absent: the entries of a law that is not held.
    """
    places = [where.nonzero(as_tuple=True) for where, _ in pieces]
    slots = [column - start[row] for row, column in places]
    width = max((int(slot.max()) + 1 for slot in slots if len(slot)), default=0)
    laws = pieces[0][1].new_full((len(start), width, pieces[0][1].shape[1]), absent)
    rows = laws.flatten(0, 1)
    for (row, _), slot, (_, law) in zip(places, slots, pieces, strict=True):
        rows.index_copy_(0, row * width + slot, law.to(laws.dtype))
    return LawWindow(start, laws)


def recall(
    window: LawWindow, where: Tensor, start: Tensor, like: Tensor, absent: float = 0.0
) -> Tensor:
    """Return the laws held for the positions of `where`, [R, V]; `absent` if none is held.

    Args:
        window: the stored laws.
        where: bool [B, L], at or right of `start`.
        start: int64 [B], first column of the current block; a window of another block holds nothing
            for it.
        like: [R, V], gives the shape and dtype.
        absent: the entries of a law that is not held.
    """
    row, column = where.nonzero(as_tuple=True)
    slot, width = column - start[row], window.laws.shape[1]
    held = (window.start[row] == start[row]) & (slot < width)
    if not some(held):
        return torch.full_like(like, absent)
    known = window.laws.flatten(0, 1)
    if every(held):
        return known.index_select(0, row * width + slot).to(like.dtype)
    laws = torch.full_like(like, absent)
    laws[held] = known.index_select(0, row[held] * width + slot[held]).to(like.dtype)
    return laws


def _rank(where: Tensor) -> Tensor:
    """Number of True positions before each one in its row, int64 [B, L]."""
    return where.long().cumsum(1) - 1


def pack(prediction: Prediction, where: Tensor) -> Tensor:
    """Return the log-laws at the positions of `where`, packed to the left, [B, K, V]."""
    if not bool(where.any()):
        return torch.zeros(len(where), 0, 1, dtype=torch.float32, device=where.device)
    return pack_table(prediction.log_probs(where), where)


def pack_table(values: Tensor, where: Tensor) -> Tensor:
    """Pack a table [R, V] of the positions of `where`, row-major, into [B, K, V]."""
    if not len(values):
        return torch.zeros(len(where), 0, 1, dtype=torch.float32, device=where.device)
    packed = values.new_zeros(len(where), int(where.sum(1).max()), values.shape[1])
    packed[where.nonzero(as_tuple=True)[0], _rank(where)[where]] = values
    return packed


def unpack(packed: Tensor, group: Tensor, where: Tensor) -> Tensor:
    """Return the laws packed for `group` at the positions of its subset `where`, [R, V]."""
    return packed[where.nonzero(as_tuple=True)[0], _rank(group)[where]]


def merge_draws(where: Tensor, chosen: Draw, other: Draw) -> Draw:
    """Return the draws of `chosen` at `where` (bool [B, L]), the draws of `other` elsewhere."""
    both = zip(DrawRecord.of(chosen), DrawRecord.of(other), strict=True)
    return DrawRecord(*(torch.where(where, c, o.to(c.dtype)) for c, o in both))

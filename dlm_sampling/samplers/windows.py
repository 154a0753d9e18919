"""Laws kept from one step to the next, for the W positions of a block only: [B, W, V].

They are kept as they come, as probabilities or as their logarithms.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dlm_sampling.types import Canvas


class LawWindow(NamedTuple):
    """Laws at some positions of a window of W columns per row."""

    start: Tensor  # int64 [B], column of the first slot; -1 when nothing is held
    laws: Tensor  # [B, W, V]


def empty_window(canvas: Canvas) -> LawWindow:
    """A window that holds nothing."""
    none = torch.zeros(len(canvas.tokens), 0, 0, device=canvas.tokens.device)
    return LawWindow(torch.full_like(canvas.start, -1), none)


def remember(
    start: Tensor, pieces: Sequence[tuple[Tensor, Tensor]], absent: float = 0.0
) -> LawWindow:
    """Store laws in new windows.

    Args:
        start: int64 [B], first column of each row's window.
        pieces: (where, laws) pairs: bool [B, L] at or right of `start`, and [R, V] in row-major
            order of it.
        absent: what stands for a law that is not held.
    """
    places = [where.nonzero(as_tuple=True) for where, _ in pieces]
    slots = [column - start[row] for row, column in places]
    width = max((int(slot.max()) + 1 for slot in slots if len(slot)), default=0)
    laws = pieces[0][1].new_full((len(start), width, pieces[0][1].shape[1]), absent)
    for (row, _), slot, (_, law) in zip(places, slots, pieces, strict=True):
        laws[row, slot] = law
    return LawWindow(start, laws)


def recall(
    window: LawWindow, where: Tensor, start: Tensor, like: Tensor, absent: float = 0.0
) -> Tensor:
    """The laws held for the positions of `where`, [R, V]; `absent` where none is held.

    Args:
        window: what was stored.
        where: bool [B, L], at or right of `start`.
        start: int64 [B], first column of the current block; a window of another block holds nothing
            for it.
        like: [R, V], gives the shape and dtype.
        absent: what stands for a law that is not held.
    """
    row, column = where.nonzero(as_tuple=True)
    slot = column - start[row]
    held = (window.start[row] == start[row]) & (slot < window.laws.shape[1])
    laws = torch.full_like(like, absent)
    if bool(held.any()):
        laws[held] = window.laws[row[held], slot[held]].to(like.dtype)
    return laws

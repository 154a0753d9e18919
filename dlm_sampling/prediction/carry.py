"""Latent states that go from one forward pass to the next: one per active row, kept in step.

A state is a tensor, or a tuple of them, of leading size A.  A dimension 1 as long as the canvas
belongs to its columns and is cut with them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def over(state: Any, fn: Callable[..., Tensor], *others: Any) -> Any:
    """Apply `fn` to every tensor of a state, with the matching tensors of other states."""
    if isinstance(state, Tensor):
        return fn(state, *others)
    parts: list[Any] = list(state)
    return tuple(over(part, fn, *(o[i] for o in others)) for i, part in enumerate(parts))


def take(state: Any, rows: Tensor) -> Any:
    """The states of some rows (int64 or bool)."""

    def pick(part: Tensor) -> Tensor:
        return part[rows]

    return over(state, pick)


def put(state: Any, rows: Tensor, values: Any) -> Any:
    """The states with those of `rows` (int64) replaced."""

    def store(part: Tensor, new: Tensor) -> Tensor:
        return part.index_copy(0, rows, new.to(part.dtype))

    return over(state, store, values)


def crop(state: Any, start: int, stop: int, length: int) -> Any:
    """The columns [start, stop) of what is as long as the canvas."""

    def cut(part: Tensor) -> Tensor:
        return part[:, start:stop] if part.ndim > 1 and part.shape[1] == length else part

    return over(state, cut)


def widen(state: Any, start: int, stop: int, length: int) -> Any:
    """Undo `crop`: zeros in the columns that were cut."""
    width = stop - start

    def fill(part: Tensor) -> Tensor:
        if part.ndim < 2 or part.shape[1] != width or width == length:
            return part
        out = part.new_zeros(part.shape[0], length, *part.shape[2:])
        out[:, start:stop] = part
        return out

    return over(state, fill)


class Carry:
    """The states of the active rows under one kind of pass (conditional or unconditional).

    Args:
        initial: makes the states of rows that have none, from their canvases.
    """

    def __init__(self, initial: Callable[[Tensor], Any]) -> None:
        self._initial = initial
        self._state: Any = None
        self._fresh: Tensor | None = None  # bool [A], rows that begin anew

    def read(self, x: Tensor, rows: Tensor, count: int) -> Any:
        """The states of `rows` (int64 [n] of `count`) before a pass over canvases x [n, L]."""
        first = self._initial(x)
        if self._state is None or self._fresh is None:

            def room(part: Tensor) -> Tensor:
                return part.new_zeros(count, *part.shape[1:])

            self._state = over(first, room)
            self._fresh = torch.ones(count, dtype=torch.bool, device=x.device)
        begin = self._fresh[rows]
        self._state = put(self._state, rows[begin], take(first, begin))
        self._fresh = self._fresh.index_fill(0, rows, False)
        return take(self._state, rows)

    def write(self, rows: Tensor, values: Any) -> None:
        """Keep what a pass over `rows` returned."""
        self._state = put(self._state, rows, values)

    def reset(self, rows: Tensor) -> None:
        """Let rows (bool [A]) begin anew, as at the start of a block."""
        if self._fresh is not None:
            self._fresh = self._fresh | rows

    def select(self, rows: Tensor) -> None:
        """Keep, drop, repeat or reorder rows (bool [A] or int64)."""
        if self._state is not None and self._fresh is not None:
            self._state, self._fresh = take(self._state, rows), self._fresh[rows]

"""Keeps the latent states that a network hands from one forward pass to the next.

A state is a tree of row tensors with one entry per active row.  A dimension 1 as long as the canvas
belongs to its columns and is cut with them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dlm_sampling.types.rows import map_rows, select_rows, store_rows


class Carry(NamedTuple):
    """The states of the active rows under one kind of pass, conditional or unconditional."""

    state: Any  # tree of row tensors; None before the first pass
    fresh: Tensor | None  # bool [A], rows that begin anew; None before the first pass

    def read(
        self, initial: Callable[[Tensor], Any], x: Tensor, rows: Tensor, count: int
    ) -> tuple[Carry, Any]:
        """Give the states of `rows` (int64 [n] of `count`) before a pass over canvases x [n, L].

        `initial` makes the states of rows that have none, from their canvases.
        """
        first = initial(x)
        state, fresh = self.state, self.fresh
        if fresh is None:
            state = map_rows(_room(count), first)
            fresh = torch.ones(count, dtype=torch.bool, device=x.device)
        begin = fresh[rows]
        state = store_rows(state, rows[begin], select_rows(first, begin))
        return Carry(state, fresh.index_fill(0, rows, False)), select_rows(state, rows)

    def write(self, rows: Tensor, values: Any) -> Carry:
        """Keep the states that a pass over `rows` (int64 [n]) returned."""
        return self._replace(state=store_rows(self.state, rows, values))

    def reset(self, rows: Tensor) -> Carry:
        """Let rows (bool [A]) begin anew, as at the start of a block."""
        return self if self.fresh is None else self._replace(fresh=self.fresh | rows)


NO_CARRY = Carry(None, None)


def _room(count: int) -> Callable[[Tensor], Tensor]:
    """Zeros for `count` rows like those of a tensor."""

    def zeros(part: Tensor) -> Tensor:
        return part.new_zeros(count, *part.shape[1:])

    return zeros


def crop(state: Any, start: int, stop: int, length: int) -> Any:
    """Cut a state to the columns [start, stop) where it is as long as the canvas."""

    def cut(part: Tensor) -> Tensor:
        return part[:, start:stop] if part.ndim > 1 and part.shape[1] == length else part

    return map_rows(cut, state)


def widen(state: Any, start: int, stop: int, length: int) -> Any:
    """Undo `crop`: fill the columns that were cut with zeros."""
    width = stop - start

    def fill(part: Tensor) -> Tensor:
        if part.ndim < 2 or part.shape[1] != width or width == length:
            return part
        out = part.new_zeros(part.shape[0], length, *part.shape[2:])
        out[:, start:stop] = part
        return out

    return map_rows(fill, state)

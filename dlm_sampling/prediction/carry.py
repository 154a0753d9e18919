"""Keep the latent states that a network passes from one forward pass to the next.

A state is a tree of tensors whose dimension 0 runs over the active rows.  Where the denoiser says
so (`carry_has_columns`), dimension 1 runs over the columns and is cut together with them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dlm_sampling.types.rows import map_rows, select_rows, store_rows


class Carry(NamedTuple):
    """Hold the carried states of the active rows for conditional or for unconditional passes."""

    state: Any  # tree of row tensors; None before the first pass
    fresh: Tensor | None  # bool [A], rows that start from the initial state; None before pass 1

    def read(
        self, initial: Callable[[Tensor], Any], x: Tensor, rows: Tensor, count: int
    ) -> tuple[Carry, Any]:
        """Return the updated carry, and the states of `rows` before a pass over their canvases.

        Args:
            initial: makes the first states of rows from their canvases.
            x: int64 [n, L], the canvases of the pass.
            rows: int64 [n], active rows of the pass.
            count: number of active rows, A.
        """
        first = initial(x)
        state, fresh = self.state, self.fresh
        if fresh is None:
            state = map_rows(_zero_rows(count), first)
            fresh = torch.ones(count, dtype=torch.bool, device=x.device)
        begin = fresh[rows]
        state = store_rows(state, rows[begin], select_rows(first, begin))
        return Carry(state, fresh.index_fill(0, rows, False)), select_rows(state, rows)

    def write(self, rows: Tensor, values: Any) -> Carry:
        """Store the states that a pass over `rows` (int64 [n]) returned."""
        return self._replace(state=store_rows(self.state, rows, values))

    def reset(self, rows: Tensor) -> Carry:
        """Make rows (bool [A]) start from the initial state again, as at the start of a block."""
        return self if self.fresh is None else self._replace(fresh=self.fresh | rows)


NO_CARRY = Carry(None, None)


def _zero_rows(count: int) -> Callable[[Tensor], Tensor]:
    """Return a function that makes `count` rows of zeros, shaped like the rows of its argument."""

    def zeros(part: Tensor) -> Tensor:
        return part.new_zeros(count, *part.shape[1:])

    return zeros


def crop(state: Any, start: int, stop: int) -> Any:
    """Cut the tensors of a state, which run over the canvas, to columns [start, stop)."""

    def cut(part: Tensor) -> Tensor:
        return part[:, start:stop]

    return map_rows(cut, state)


def widen(state: Any, start: int, stop: int, length: int) -> Any:
    """Undo `crop`, with zeros in the columns that were cut."""

    def fill(part: Tensor) -> Tensor:
        out = part.new_zeros(part.shape[0], length, *part.shape[2:])
        out[:, start:stop] = part
        return out

    return map_rows(fill, state)

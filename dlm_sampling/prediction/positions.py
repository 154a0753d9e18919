"""List positions of the canvases: only the requested ones, or a fixed number of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sites:
    """List R distinct positions of canvases [A, L].

    Fields:
        row: int64 [R], active row of each position.
        column: int64 [R], column of each position.
        asked: bool [R], False at entries that only fill a list of fixed length; None if there are
            no such entries.
        shape: (A, L).
    """

    row: Tensor
    column: Tensor
    asked: Tensor | None
    shape: torch.Size

    @classmethod
    def of(cls, where: Tensor) -> Sites:
        """List the positions of `where` (bool [A, L]) in row-major order; synchronises."""
        row, column = where.nonzero(as_tuple=True)
        return cls(row, column, None, where.shape)

    @classmethod
    def within(cls, where: Tensor, columns: Tensor) -> Sites:
        """List all positions of a window of each row, requested where `where` is True.

        Args:
            where: bool [A, L], False outside of the window.
            columns: int64 [A, W], the window's columns, no column of a row twice.
        """
        row = torch.arange(columns.shape[0], device=columns.device).repeat_interleave(
            columns.shape[1], output_size=columns.numel()
        )
        column = columns.flatten()
        return cls(row, column, where[row, column], where.shape)

    def __len__(self) -> int:
        """Return the number of positions, R."""
        return self.row.shape[0]

    def read(self, values: Tensor) -> Tensor:
        """Return the entries of a tensor [A, L, ...] at the positions, [R, ...]."""
        return values[self.row, self.column]

    def spread(self, values: Tensor) -> Tensor:
        """Return a tensor [A, L] with `values` [R] at the requested positions, 0 elsewhere."""
        kept = values if self.asked is None else torch.where(self.asked, values, 0)
        return values.new_zeros(self.shape).index_put((self.row, self.column), kept)

    def present(self, index: Tensor) -> Tensor:
        """Return an index of rows [R], with -1 at entries that were not requested."""
        return index if self.asked is None else torch.where(self.asked, index, -1)

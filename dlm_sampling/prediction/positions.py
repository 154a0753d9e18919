"""Positions of a canvas as a list: as many as are asked for, or a fixed number of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sites:
    """R positions of a canvas [A, L], no position twice.

    Fields:
        row: int64 [R].
        column: int64 [R].
        asked: bool [R], False where an entry only fills a list of fixed length; None: none does.
        shape: (A, L).
    """

    row: Tensor
    column: Tensor
    asked: Tensor | None
    shape: torch.Size

    @classmethod
    def of(cls, where: Tensor) -> Sites:
        """The positions of `where` (bool [A, L]) in row-major order; waits for the device."""
        row, column = where.nonzero(as_tuple=True)
        return cls(row, column, None, where.shape)

    @classmethod
    def within(cls, where: Tensor, columns: Tensor) -> Sites:
        """All positions of a window of each row, asked for where `where` is True.

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
        """R."""
        return self.row.shape[0]

    def read(self, values: Tensor) -> Tensor:
        """The entries of a tensor [A, L, ...] at the positions, [R, ...]."""
        return values[self.row, self.column]

    def spread(self, values: Tensor) -> Tensor:
        """[A, L] with `values` [R] at the positions that were asked for, 0 elsewhere."""
        kept = values if self.asked is None else torch.where(self.asked, values, 0)
        return values.new_zeros(self.shape).index_put((self.row, self.column), kept)

    def present(self, index: Tensor) -> Tensor:
        """An index of rows [R], -1 where nothing was asked for."""
        return index if self.asked is None else torch.where(self.asked, index, -1)

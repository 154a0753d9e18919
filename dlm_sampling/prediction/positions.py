"""List positions of the canvases: only the requested ones, or a fixed number of them."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor


class Sites:
    """List R distinct positions of canvases [A, L], in row-major order unless they fill a window.

    Args:
        place: int64 [R], row L + column of each position.
        shape: (A, L).
        where: bool [A, L], True at the positions, where the list is that of a mask.
        asked: bool [R], False at entries that only fill a list of fixed length; None if there are
            no such entries.
    """

    def __init__(
        self,
        place: Tensor,
        shape: torch.Size,
        *,
        where: Tensor | None = None,
        asked: Tensor | None = None,
    ) -> None:
        self.place, self.shape, self.asked, self._where = place, shape, asked, where

    @classmethod
    def of(cls, where: Tensor) -> Sites:
        """List the positions of `where` (bool [A, L]) in row-major order; synchronises."""
        if where.is_cpu:
            return cls(
                torch.from_numpy(where.numpy().ravel().nonzero()[0]), where.shape, where=where
            )
        return cls(where.flatten().nonzero()[:, 0], where.shape, where=where)

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
        place = row * where.shape[1] + columns.flatten()
        return cls(place, where.shape, asked=where.flatten()[place])

    @cached_property
    def row(self) -> Tensor:
        """Return the active row of each position, int64 [R]."""
        return self.place // self.shape[1]

    @cached_property
    def column(self) -> Tensor:
        """Return the column of each position, int64 [R]."""
        return self.place % self.shape[1]

    def __len__(self) -> int:
        """Return the number of positions, R."""
        return self.place.shape[0]

    def read(self, values: Tensor) -> Tensor:
        """Return the entries of a tensor [A, L, ...] at the positions, [R, ...]."""
        return values.flatten(0, 1)[self.place]

    def zeros(self, dtype: torch.dtype) -> Tensor:
        """Return zeros of the shape of the canvases, [A, L]."""
        if self._where is not None:  # several times faster
            return torch.zeros_like(self._where, dtype=dtype)
        return torch.zeros(self.shape, dtype=dtype, device=self.place.device)

    def spread(self, values: Tensor) -> Tensor:
        """Return a tensor [A, L] with `values` [R] at the requested positions, 0 elsewhere."""
        if self._where is not None:
            table = torch.zeros_like(self._where, dtype=values.dtype)
            return table.masked_scatter_(self._where, values)
        kept = values if self.asked is None else torch.where(self.asked, values, 0)
        return self.zeros(values.dtype).flatten().index_put((self.place,), kept).view(self.shape)

    def present(self, index: Tensor) -> Tensor:
        """Return an index of rows [R], with -1 at entries that were not requested."""
        return index if self.asked is None else torch.where(self.asked, index, -1)

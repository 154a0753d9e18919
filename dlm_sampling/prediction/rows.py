"""Hold all row tensors of a forward pass as one value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Beside(NamedTuple):
    """Count the tokens that a row shows of its other blocks; float64 [A] each.

    Prompt, padding and infill context are conditions, and not counted: no time says how much of
    them is clean.
    """

    width: Tensor  # positions to write in the current block
    masks: Tensor  # masks in other blocks
    total: Tensor  # positions to write in all blocks

    @classmethod
    def of(cls, block: Tensor, unknown: Tensor, editable: Tensor) -> Beside:
        """Count beside the current block, of masks bool [A, L]: its positions, the unknown, all."""
        others = unknown & editable & ~block
        return cls(*(where.sum(1).double() for where in (block, others, editable)))

    def alpha_of_all(self, alpha: Tensor) -> Tensor:
        """Return the share of clean tokens in all blocks; alpha is that of the current one."""
        masked = ((1.0 - alpha) * self.width + self.masks) / self.total.clamp_min(1.0)
        return torch.where(self.width < self.total, 1.0 - masked, alpha)


@dataclass(frozen=True)
class PassRows:
    """Hold the row tensors of a pass; every tensor has leading dimension A, the active rows.

    `types.rows` selects and repeats all fields without naming them, so that a new field follows its
    rows from the day it is added.

    Fields:
        index: int64 [A], index of each active row in the batch.
        attention: bool [A, L], False at padding, or None without padding.
        given: bool [A, L], tokens that the run does not write, which the unconditional pass of
            guidance does not see; None where neither guidance nor a presence penalty asks.
        horizon: int64 [A], first column hidden from the denoiser, or None if none is hidden.
        columns: int64 [A, W], the only columns whose values will be read, or None for all.
        beside: the tokens that a row shows of its other blocks, for the time; None where there are
            none.
    """

    index: Tensor
    attention: Tensor | None = None
    given: Tensor | None = None
    horizon: Tensor | None = None
    columns: Tensor | None = None
    beside: Beside | None = None

    def __len__(self) -> int:
        """Return the number of active rows, A."""
        return len(self.index)

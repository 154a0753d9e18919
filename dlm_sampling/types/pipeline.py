"""Say how many blocks a sampler writes at the same time, and which of them must move."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


@dataclass(frozen=True)
class Pipeline:
    """Let a block begin before the one on its left is written.

    Fields:
        add: known share of the last block under way at which the next one joins; 1 is one block at
            a time.
        activate: known share of a block at which the one behind it must write in every step.
        buffer: most blocks under way, or None for no bound.
        block_length: columns of a block, where the caller names none.
    """

    add: float
    activate: float
    buffer: int | None = None
    block_length: int = 32


class UnderWay(NamedTuple):
    """Hold the blocks that a pipeline writes at the same time."""

    number: Tensor  # int64 [B, L], the position's block in the row, from 0
    active: Tensor  # bool [B, L], positions of blocks that must write in every step
    first: Tensor  # int64 [B], number of the first block with an unknown position
    most: int  # blocks of the widest row

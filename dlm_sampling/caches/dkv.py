"""Freeze the keys and values of written tokens one step late: dKV-Cache, decode.

    every N-th pass   Q = Wr = all columns
    else              Q = Wr = all masks and the tokens of the last step, K = all columns

Keys and values change most when a mask becomes a token, so a token is computed once more in the
step after it was written, and kept from then on.  Approximate.

Ma et al. 2025, dKV-Cache, arXiv:2505.15781, section 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dlm_sampling.caches.policy import RefreshPolicy, View, at_least


class DkvState(NamedTuple):
    """Hold what the policy remembers of each row."""

    passes: Tensor  # int64 [n], passes since one over all columns
    in_block: Tensor  # int64 [n], passes of the block
    unknown: Tensor  # bool [n, L], positions without a token at the last pass


@dataclass(frozen=True)
class DkvCache(RefreshPolicy):
    """Compute the columns of masks and of new tokens, and read all others from the cache.

    A token is new in the pass after the step that wrote it.

    Fields:
        every: passes from one over all columns to the next, N.
        warm_up: first passes of a block that compute all columns; the released loop of LLaDA takes
            2, that of Dream, which has one block, none.
    """

    every: int = 8
    warm_up: int = 0

    name = "dkv"
    freezes = True

    def __post_init__(self) -> None:
        super().__post_init__()  # types before ranges
        at_least("every", self.every, 1)
        at_least("warm_up", self.warm_up, 0)

    def init(self, view: View) -> DkvState:
        """Return the state of rows without a pass."""
        never = torch.full_like(view.opened, self.every, dtype=torch.int64)
        return DkvState(never, torch.zeros_like(never), view.unknown)

    def due(self, state: DkvState, view: View) -> Tensor:
        """Return whether N passes went by, or the block has just begun."""
        begun = torch.where(view.opened, 0, state.in_block)
        return (state.passes >= self.every) | (begun < self.warm_up)

    def near(self, state: DkvState, view: View) -> Tensor:
        """Return the masks, and the tokens that the last step wrote."""
        return view.unknown | (state.unknown & ~view.unknown)

    def after(self, state: DkvState, view: View, due: Tensor) -> DkvState:
        """Return the counts after the pass."""
        passes = torch.where(due, 1, state.passes + 1)
        return DkvState(passes, torch.where(view.opened, 0, state.in_block) + 1, view.unknown)

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

from dlm_sampling.caches.policy import Plan, PolicyBase, View, at_least


class DkvState(NamedTuple):
    """Hold what the policy remembers of each row."""

    passes: Tensor  # int64 [n], passes since one over all columns
    unknown: Tensor  # bool [n, L], positions without a token at the last pass


@dataclass(frozen=True)
class DkvCache(PolicyBase):
    """Compute masks and new tokens.

    Fields:
        every: passes from one over all columns to the next, N.
        warm_up: first passes of a block that compute all columns; 0 for runs with one block.
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
        return DkvState(never, view.unknown)

    def plan(self, state: DkvState, view: View) -> tuple[DkvState, Plan]:
        """Return the columns of the next pass."""
        refresh = state.passes >= self.every
        written = state.unknown & ~view.unknown
        query = view.real & (view.unknown | written | refresh.unsqueeze(1))
        passes = torch.where(refresh, 1, state.passes + 1)
        return DkvState(passes, view.unknown), Plan(query, view.real, query, refresh)

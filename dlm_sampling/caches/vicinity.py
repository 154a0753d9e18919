"""Keep the keys and values far from the current block [s, e): the vicinity refresh.

    first passes of a block, and every N-th    Q = Wr = all columns
    else                                       Q = Wr = [s - a, e + b), K = all columns

Approximate: what is farther away is as old as the last pass over all columns.

Ma et al. 2025, dInfer, arXiv:2510.08666, section 4.  In the released code the first passes are
counted once per process; here every block has its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dlm_sampling.caches.policy import RefreshPolicy, View, at_least


@dataclass(frozen=True)
class VicinityCache(RefreshPolicy):
    """Compute the current block and its neighbours.

    Fields:
        left: columns left of the block, a.
        right: columns right of the block, b.
        warm_up: first passes of a block that compute all columns.
        every: a pass over all columns every so many passes of a block, N; None: no further ones.
    """

    left: int = 16
    right: int = 16
    warm_up: int = 4
    every: int | None = None

    name = "vicinity"

    def __post_init__(self) -> None:
        super().__post_init__()  # types before ranges
        at_least("left", self.left, 0)
        at_least("right", self.right, 0)
        at_least("warm_up", self.warm_up, 1)
        at_least("every", self.every, 1)

    def init(self, view: View) -> Tensor:
        """Return the passes of the block so far, int64 [n]."""
        return torch.zeros_like(view.opened, dtype=torch.int64)

    def due(self, state: Tensor, view: View) -> Tensor:
        """Return whether the pass is one of the first of the block, or an N-th one."""
        number = torch.where(view.opened, 0, state)
        first = number < self.warm_up
        return first if self.every is None else first | (number % self.every == 0)

    def near(self, state: Tensor, view: View) -> Tensor:
        """Return the block and its neighbours."""
        return widened(view.window, self.left, self.right)

    def after(self, state: Tensor, view: View, due: Tensor) -> Tensor:
        """Return the passes of the block, int64 [n]."""
        return torch.where(view.opened, 0, state) + 1


def widened(window: Tensor, before: int, after: int) -> Tensor:
    """Add the `before` columns left of a span (bool [n, L]), and the `after` right of it."""
    length = window.shape[1]
    column = torch.arange(length, device=window.device)
    start = window.long().argmax(1, keepdim=True)
    stop = start + window.sum(1, keepdim=True)
    return (column >= start - before) & (column < stop + after)

"""Compute all columns again once values have drifted: the dual cache with an adaptive refresh.

    d <- d + mean over the masks of the block of 1 - cos(v, v'),   v' the stored value, v the fresh
    first pass of a block, or d > bound       Q = Wr = all columns, and d = 0
    else                                      Q = Wr = the block, K = all columns

The values are those of the last layer.  A mask's own token does not change, so that its value moves
with what it sees: how far everything else has moved since its keys and values were stored.
Approximate.  `cache_audit="refresh"` shows the KL that a bound lets through.

The measure is that of dLLM-Cache, Liu et al. 2025, arXiv:2506.06295, section 3.3, which compares
the values of every column and computes the most changed ones again, layer by layer.  Here it says
when all columns are computed.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dlm_sampling.caches.policy import RefreshPolicy, View


@dataclass(frozen=True)
class AdaptiveCache(RefreshPolicy):
    """Compute the current block, and all columns where values have drifted.

    Fields:
        bound: the drift that is borne; 0 refreshes in every second pass, infinity is "dual".
    """

    bound: float = 0.05

    name = "adaptive"
    measures = True

    def __post_init__(self) -> None:
        super().__post_init__()  # types before ranges
        if not self.bound >= 0.0:
            raise ValueError(f"bound={self.bound}: must be at least 0; try 0.05.")

    def due(self, state: None, view: View) -> Tensor:
        """Return whether the block has just begun, or values have drifted."""
        assert view.drift is not None
        return view.opened | (view.drift > self.bound)

    def near(self, state: None, view: View) -> Tensor:
        """Return the columns of the block."""
        return view.window

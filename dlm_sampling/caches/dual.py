"""Keep the keys and values on both sides of the current block: the dual cache.

    first pass of a block   Q = Wr = all columns
    then                    Q = Wr = the block, K = all columns

Approximate: everything outside of the block is as old as the block's first pass.

Wu et al. 2025, Fast-dLLM, arXiv:2505.22618, section 3.2.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dlm_sampling.caches.policy import RefreshPolicy, View


@dataclass(frozen=True)
class DualCache(RefreshPolicy):
    """Compute the current block, and all columns in a block's first pass."""

    name = "dual"

    def near(self, state: None, view: View) -> Tensor:
        """Return the columns of the block."""
        return view.window

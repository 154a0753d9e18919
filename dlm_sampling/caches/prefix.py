"""Keep the keys and values left of the current block: the prefix cache.

    first pass of a block   Q = Wr = all columns
    then                    Q = the block and all columns right of it, K = all columns

Approximate: what is left of the block is as old as the block's first pass.

Wu et al. 2025, Fast-dLLM, arXiv:2505.22618, section 3.2.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dlm_sampling.caches.policy import RefreshPolicy, View


@dataclass(frozen=True)
class PrefixCache(RefreshPolicy):
    """Compute the columns from the current block on, and all columns in a block's first pass."""

    name = "prefix"

    def near(self, state: None, view: View) -> Tensor:
        """Return the columns from the block's first on."""
        return view.window.cumsum(1) > 0

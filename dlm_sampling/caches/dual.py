"""Keep the keys and values on both sides of the current block: the dual cache.

    first pass of a block   Q = Wr = all columns
    then                    Q = Wr = the block, K = all columns

Approximate: everything outside of the block is as old as the block's first pass.

Wu et al. 2025, Fast-dLLM, arXiv:2505.22618, section 3.2.
"""

from __future__ import annotations

from dataclasses import dataclass

from dlm_sampling.caches.policy import Plan, PolicyBase, View


@dataclass(frozen=True)
class DualCache(PolicyBase):
    """Compute the current block, and all columns in a block's first pass."""

    name = "dual"

    def plan(self, state: None, view: View) -> tuple[None, Plan]:
        """Return the columns of the next pass."""
        query = view.real & (view.window | view.opened.unsqueeze(1))
        return None, Plan(query, view.real, query, view.opened)

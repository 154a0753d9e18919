"""Keep the keys and values left of the current block: the prefix cache.

    first pass of a block   Q = Wr = all columns
    then                    Q = the block and all columns right of it, K = all columns

Approximate: what is left of the block is as old as the block's first pass.

Wu et al. 2025, Fast-dLLM, arXiv:2505.22618, section 3.2.
"""

from __future__ import annotations

from dataclasses import dataclass

from dlm_sampling.caches.policy import Plan, PolicyBase, View


@dataclass(frozen=True)
class PrefixCache(PolicyBase):
    """Compute the columns from the current block on, and all columns in a block's first pass."""

    name = "prefix"

    def plan(self, state: None, view: View) -> tuple[None, Plan]:
        """Return the columns of the next pass."""
        ahead = view.real & (view.window.cumsum(1) > 0)
        query = view.real & (ahead | view.opened.unsqueeze(1))
        return None, Plan(query, view.real, query, view.opened)

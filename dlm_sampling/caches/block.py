"""Keep the finished blocks of a block-causal model: the exact block cache.

    Q = columns of finished blocks without stored keys, and the current block
    K = the finished blocks and the current block
    Wr = Q without the current block

A block sees itself and earlier blocks, so the keys and values of a finished block never change.
Those of its last denoising pass are not the ones to keep: that pass still saw a mask.  The first
pass of the next block computes the finished block once more, with its tokens, beside its own
(fused), which takes no pass of its own; the prompt is computed with the first block.  Where states
are shifted (`Denoiser.shift`) a pass also computes the column before its first one, which predicts
that one.

Arriola et al. 2025, Block Diffusion, arXiv:2503.09573, section 3.2 (with passes of their own).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dlm_sampling.caches.policy import Plan, PolicyBase, View


@dataclass(frozen=True)
class BlockCache(PolicyBase):
    """Compute the current block only; exact.

    Fields:
        commit: "fused" computes a finished block in the first pass of the next one; "separate" in a
            pass of its own, as the released loops do.

    NFE: as without a cache; "separate" takes one more per block.
    """

    commit: Literal["fused", "separate"] = "fused"

    name = "block"
    exact = True

    @property
    def separate(self) -> bool:
        """Return whether finished blocks have passes of their own."""
        return self.commit == "separate"

    def plan(self, state: None, view: View) -> tuple[None, Plan]:
        """Return the columns of the next pass."""
        window = view.window & view.real
        before = view.real & (view.window.cumsum(1) == 0)
        new = before & ~view.held
        return None, Plan(new | window, before | window, new, new.any(1))

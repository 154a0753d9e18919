"""Drop most masks behind the current block from the passes: suffix dropping, DPad.

    j          offset of a column behind the block, from 0
    P(kept)    min(1, a phi(k j / w)) for j < w, else 0;  phi is the normal density
    Q = K      what is left of the block, the block, and the kept columns

Positions stay those of the whole canvas.  With w 256, k 4 and a 2 about 64 columns are kept,
w a / 2 k.  Approximate: the block sees fewer masks than the canvas has.  `cache` keeps keys and
values beside it, as "prefix" or "dual" do.

Chen et al. 2025, DPad, arXiv:2508.14148, section 4.  The columns are drawn by row and block, so
that they do not depend on the batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from dlm_sampling.caches.policy import Plan, PolicyBase, View, at_least
from dlm_sampling.ops import Stream


class DPadState(NamedTuple):
    """Hold what the policy remembers of each row."""

    kept: Tensor  # bool [n, L], columns behind the block that are seen
    blocks: Tensor  # int64 [n], blocks begun


@dataclass(frozen=True)
class DPadCache(PolicyBase):
    """See the nearest columns behind the block, thinned out with their distance.

    Fields:
        window: columns behind the block that may be kept, w.
        decay: rate at which they thin out, k.
        scale: the factor of the density, a.
        cache: "prefix" and "dual" also keep keys and values after a block's first pass.
    """

    window: int = 256
    decay: float = 4.0
    scale: float = 2.0
    cache: Literal["none", "prefix", "dual"] = "none"

    name = "dpad"

    def __post_init__(self) -> None:
        super().__post_init__()  # types before ranges
        at_least("window", self.window, 0)
        for name, value in (("decay", self.decay), ("scale", self.scale)):
            if not 0.0 <= value < math.inf:
                raise ValueError(f"{name}={value}: must be at least 0, and finite.")

    def init(self, view: View) -> DPadState:
        """Return the state of rows without a block."""
        return DPadState(torch.zeros_like(view.real), torch.zeros_like(view.opened).long())

    def plan(self, state: DPadState, view: View) -> tuple[DPadState, Plan]:
        """Return the columns of the next pass, and the state after it."""
        blocks = state.blocks + view.opened
        kept = torch.where(view.opened.unsqueeze(1), self.drawn(view, blocks), state.kept)
        block, nothing = view.window & view.real, torch.zeros_like(view.real)
        before = view.real & (view.window.cumsum(1) == 0)
        seen = before | block | kept
        if self.cache == "none":
            return DPadState(kept, blocks), Plan(seen, seen, nothing, nothing[:, 0])
        near = block if self.cache == "dual" else block | kept
        query = torch.where(view.opened.unsqueeze(1), seen, near)
        return DPadState(kept, blocks), Plan(query, seen, query, view.opened)

    def drawn(self, view: View, blocks: Tensor) -> Tensor:
        """Return the columns behind the block that are kept, bool [n, L]; blocks int64 [n]."""
        assert view.rng is not None
        column = torch.arange(view.window.shape[1], device=view.window.device)
        stop = (view.window * (column + 1)).amax(1, keepdim=True)
        offset = (column - stop).double()
        density = (-0.5 * (self.decay * offset / max(self.window, 1)) ** 2).exp()
        share = self.scale * density / math.sqrt(2.0 * math.pi)
        near = view.real & (offset >= 0) & (offset < self.window)
        chance = view.rng.with_step(blocks).uniform(Stream.SUFFIX, view.window)
        return near & (chance < share)

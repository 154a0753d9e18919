"""Write positions that rank high in two steps in a row with the same prediction: CCD.

    top-n      the n best positions of the step, n growing from 1 to u + floor(u * expand_ratio)
    agree      { i in top-n, among the n best that the step before left over, argmax p_i unchanged }
    commit     agree, if top-u meets the positions left over and |agree| >= u;  else top-u

with u = floor(tokens / steps).  This is the rule of the released code; `ccd_average` has that of
the text.  Chen et al. 2025, "Beyond Confidence: Adaptive and Coherent Decoding for Diffusion
Language Models", arXiv:2512.02044, and github.com/tonyckc/CCD-DLM-code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dlm_sampling.ops import any_or_assume, top_k_positions
from dlm_sampling.samplers.base import DelayingSampler, block_total, reveal
from dlm_sampling.samplers.parts.checks import at_least
from dlm_sampling.samplers.parts.orders import LAW_ORDERS, OrderName, check_order
from dlm_sampling.samplers.registry import register
from dlm_sampling.types import (
    Canvas,
    Clock,
    Draw,
    Predict,
    Prediction,
    RandomSource,
    Step,
    TokenLaw,
)


class CCDState(NamedTuple):
    """Hold the positions that the step before left over, and its predictions."""

    total: Tensor  # int64 [B], unknown positions when the block began
    window: Tensor  # int64 [B], n of the step before
    waiting: Tensor  # bool [B, L], the n best positions that the step before left over
    mode: Tensor  # int64 [B, L], argmax of the step before


@dataclass(frozen=True)
class CCD(DelayingSampler[CCDState]):
    """Write the positions whose rank and prediction last for two steps, else the u best ones.

    The first steps of a block, as many as `warm_up`, write the u best.  The last planned step
    writes all that is left; choose steps that divide the tokens.  (The released code leaves masks
    there, and with fewer than u masks left it puts masks over written tokens.)  Statistics are
    those of the filtered and tempered law, as in Dream.

    Fields:
        seek_mode: write everything that agrees (the adaptive form), or only the best u of it.
        expand_ratio: the window ends at u + floor(u * expand_ratio), and at most so many
            positions are written.
        order: "entropy" (the authors' script), "confidence" (alg maskgit_plus) or "margin"
            (topk_margin).
        warm_up: first step that looks back.

    NFE: adaptive, at most min(steps, tokens).
    """

    seek_mode: bool = True
    expand_ratio: float = 4.0
    order: OrderName = "entropy"
    warm_up: int = 5

    law = TokenLaw(temperature=0.0)
    paper = "Chen et al. 2025, arXiv:2512.02044"
    nfe = "adaptive; at most min(steps, tokens)"

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("expand_ratio", self.expand_ratio, 0.0, "the authors use 4")
        at_least("warm_up", self.warm_up, 1, "the authors use 5")
        check_order("order", self.order, tuple(LAW_ORDERS))

    @property
    def exact(self) -> bool:
        """Return whether the order reads the law only, and no drawn token."""
        return self.order != "confidence" and not self.delayed_ids

    def init(self, canvas: Canvas) -> CCDState:
        """Return a state in which no position waits."""
        zero, none = torch.zeros_like(canvas.start), torch.zeros_like(canvas.unknown)
        return CCDState(zero, zero, none, torch.zeros_like(canvas.tokens))

    def step(
        self,
        state: CCDState,
        canvas: Canvas,
        clock: Clock,
        predict: Predict,
        rng: RandomSource,
    ) -> tuple[CCDState, Step]:
        """Compare ranks with the last step, write where they agree, and remember the rest."""
        eligible = canvas.eligible
        total = block_total(state.total, canvas, clock)
        share = (total // clock.steps).clamp_min(1)
        window = self.window(state.window, eligible.sum(1), total, share, clock)
        prediction = predict(canvas.tokens, canvas.unknown_fraction)
        draw = prediction.draw(eligible, rng, statistics="law")
        mode = most_likely(prediction, draw, eligible, rng)
        among = self.in_time(draw, eligible)
        score = self.rank(LAW_ORDERS[self.order].score(draw), draw, eligible)
        best = top_k_positions(score, eligible, share)
        agree = top_k_positions(score, among, window) & state.waiting & (mode == state.mode)
        looks_back = (clock.step >= self.warm_up) & (best & state.waiting).any(1)
        looks_back &= agree.sum(1) >= share
        if not self.seek_mode:
            agree = top_k_positions(score, agree, share)
        where = torch.where(looks_back.unsqueeze(1), agree, best)
        where = torch.where(clock.last.unsqueeze(1), eligible, where)
        waiting = top_k_positions(score, eligible & ~where, window)
        return CCDState(total, window, waiting, mode), reveal(canvas, where, draw)

    def window(
        self, before: Tensor, unknown: Tensor, total: Tensor, share: Tensor, clock: Clock
    ) -> Tensor:
        """Return n of this step, int64 [B]: 1 at first, one more each step, 2 in the last tenth."""
        largest = share + (share.double() * self.expand_ratio).floor().long()
        start = torch.where(10 * unknown <= total, 1, before)
        early = clock.step < max(self.warm_up - 1, 1)
        return torch.where(early, 1, torch.minimum(start + 1, largest))


def most_likely(prediction: Prediction, draw: Draw, where: Tensor, rng: RandomSource) -> Tensor:
    """Return the argmax at `where`, int64 [B, L]; of equal tokens the lowest id.

    It is read again only where another token was drawn, or one of several that tie.
    """
    unsure = where & (draw.logprob < 0.0)  # a token of probability 1 is the argmax
    if not any_or_assume(unsure):
        return draw.token
    other = unsure & ((draw.log_confidence < draw.max_logprob) | (draw.margin == 0.0))
    if not any_or_assume(other):
        return draw.token
    everyone = torch.ones_like(where[:, 0])
    return torch.where(
        other, prediction.draw(other, rng, greedy=everyone, aside=True).token, draw.token
    )


register("ccd", CCD)

"""Decode by the mean of each position's laws over the last steps: CCD as printed (experimental).

    p_bar_i = (1 / d) sum_{k < d} p_i^(step - k);  the quota of the step in the order of p_bar

Averaging over the contexts that a position has seen estimates its law with the context integrated
out.  This follows the text of Chen et al. 2025, arXiv:2512.02044; the released code does something
else, see `ccd`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dlm_sampling.ops import top_k_positions
from dlm_sampling.samplers.base import DelayingSampler, block_total, even_quota, reveal
from dlm_sampling.samplers.parts.checks import at_least
from dlm_sampling.samplers.parts.kept_laws import LawWindow, empty_window, recall, remember
from dlm_sampling.samplers.parts.orders import LAW_ORDERS, OrderName, check_order
from dlm_sampling.samplers.registry import register
from dlm_sampling.types import Canvas, Clock, Predict, RandomSource, Step, TokenLaw


class CCDAverageState(NamedTuple):
    """Hold the laws of the last steps."""

    total: Tensor  # int64 [B], unknown positions when the block began
    past: tuple[LawWindow, ...]  # laws of the last depth - 1 steps, the newest first


@dataclass(frozen=True)
class CCDAverage(DelayingSampler[CCDAverageState]):
    """Write LLaDA's quota by the mean of the last `depth` laws of each position (experimental).

    Tokens are drawn from the mean law, and the order reads it.  The memory is depth - 1 laws per
    position of the block.  The text gives no reference implementation: treat results as ours.

    Fields:
        depth: d, how many laws are averaged, this step's included; 1 is no averaging.
        order: "entropy", "confidence" or "margin" of the mean law.

    NFE: min(steps, tokens).
    """

    depth: int = 2
    order: OrderName = "entropy"

    law = TokenLaw(temperature=0.0)
    paper = "after the text of Chen et al. 2025, arXiv:2512.02044 (experimental)"
    recorded_on = ()
    scored_on = ("absorbing",)
    nfe = "min(steps, tokens)"

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("depth", self.depth, 1, "try 2; 1 is no averaging")
        check_order("order", self.order, tuple(LAW_ORDERS))

    @property
    def exact(self) -> bool:
        """Return whether the order reads the mean law only, and no drawn token."""
        return self.order != "confidence" and not self.delayed_ids

    def init(self, canvas: Canvas) -> CCDAverageState:
        """Return a state without laws."""
        past = tuple(empty_window(canvas) for _ in range(self.depth - 1))
        return CCDAverageState(torch.zeros_like(canvas.start), past)

    def step(
        self,
        state: CCDAverageState,
        canvas: Canvas,
        clock: Clock,
        predict: Predict,
        rng: RandomSource,
    ) -> tuple[CCDAverageState, Step]:
        """Average, draw from the mean law, write the quota."""
        eligible = canvas.eligible
        total = block_total(state.total, canvas, clock)
        prediction = predict(canvas.tokens, canvas.unknown_fraction)
        probs = prediction.log_probs(eligible).exp_()
        mean = probs.clone()
        for window in state.past:
            mean += recall(window, eligible, canvas.start, probs)
        seen = (clock.step + 1).clamp(max=self.depth)
        mean /= seen.unsqueeze(1).expand_as(eligible)[eligible].unsqueeze(1)
        draw = prediction.draw_from(mean.log_(), eligible, rng, statistics="law")
        score = self.rank(LAW_ORDERS[self.order].score(draw), draw, eligible)
        where = top_k_positions(score, eligible, even_quota(total, clock))
        left = eligible & ~where
        newest = remember(canvas.start, [(left, probs[left[eligible]])])
        past = (newest, *state.past)[: self.depth - 1]
        return CCDAverageState(total, past), reveal(canvas, where, draw)


register("ccd-average", CCDAverage)

"""Write a fixed number of tokens per step, the most confident or random ones, as LLaDA does.

    n masked positions, S steps: the first n mod S steps write floor(n / S) + 1 positions, the rest
    floor(n / S).

Nie et al. 2025, "Large Language Diffusion Models", arXiv:2502.09992, and the released `generate`.
The same rule with a cosine quota is MaskGIT's, Chang et al. 2022, arXiv:2202.04200.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dlm_sampling.ops import top_k_positions
from dlm_sampling.samplers.base import BlockTotal, DelayingSampler, block_total, even_quota, reveal
from dlm_sampling.samplers.parts.choices import log_subset
from dlm_sampling.samplers.parts.orders import (
    LAW_ORDERS,
    POSITION_ORDERS,
    OrderName,
    nothing_to_delay,
)
from dlm_sampling.samplers.registry import register
from dlm_sampling.types import Canvas, Choice, Clock, Predict, RandomSource, Step, TokenLaw


@dataclass(frozen=True)
class LLaDA(DelayingSampler[BlockTotal]):
    """Write the quota of this step at the positions that come first in `order`.

    The score reads the model's law at temperature 1 without noise, whatever the sampling
    temperature.

    Fields:
        order: "confidence" (the released `low_confidence`), "random", or "margin", "entropy",
            "left_to_right".
        delayed_ids: see `DelayingSampler`; the intended effect of the released
            `confidence_eos_eot_inf`.  The orders that read no token have none.

    NFE: min(steps, tokens) per block.
    """

    order: OrderName = "confidence"

    law = TokenLaw(temperature=0.0)
    paper = "Nie et al. 2025, arXiv:2502.09992"
    nfe = "min(steps, tokens)"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.delayed_ids and self.order in POSITION_ORDERS:
            raise nothing_to_delay("order", self.order)

    @property
    def exact(self) -> bool:
        """Return whether the order reads no drawn token; confidence and delayed ids read it."""
        return self.order != "confidence" and not self.delayed_ids

    def init(self, canvas: Canvas) -> BlockTotal:
        """Return zeros; positions are counted when a row enters a block."""
        return BlockTotal(torch.zeros_like(canvas.start))

    def step(
        self, state: BlockTotal, canvas: Canvas, clock: Clock, predict: Predict, rng: RandomSource
    ) -> tuple[BlockTotal, Step]:
        """Write the quota of this step."""
        eligible = canvas.eligible
        total = block_total(state.total, canvas, clock)
        quota = even_quota(total, clock)
        prediction = predict(canvas.tokens, canvas.unknown_fraction)
        if self.order in POSITION_ORDERS:
            where = top_k_positions(POSITION_ORDERS[self.order](canvas, rng), eligible, quota)
            return BlockTotal(total), reveal(canvas, where, prediction.draw(where, rng))
        draw = prediction.draw(eligible & (quota > 0).unsqueeze(1), rng)
        score = LAW_ORDERS[self.order].score(draw)
        if self.delayed_ids:
            score = self.rank(score, draw, eligible)
        where = top_k_positions(score, eligible, quota)
        return BlockTotal(total), reveal(canvas, where, draw)

    def choice_logprob(self, canvas: Canvas, clock: Clock, choice: Choice) -> Tensor | None:
        """Return the law of a random subset, or 0 where its base does."""
        if self.order == "random":
            quota = even_quota(canvas.editable.sum(1), clock)
            return log_subset(choice.written, canvas.eligible, quota)
        return super().choice_logprob(canvas, clock, choice)


def llada_random() -> LLaDA:
    """Write LLaDA's quota at uniformly random positions, its `random` remasking."""
    return LLaDA(order="random")


def llada_margin(delayed_ids: tuple[int, ...] = ()) -> LLaDA:
    """Write LLaDA's quota by the margin between the two most probable tokens, the largest first."""
    return LLaDA(order="margin", delayed_ids=delayed_ids)


def llada_entropy(delayed_ids: tuple[int, ...] = ()) -> LLaDA:
    """Write LLaDA's quota in the order of entropy, the least uncertain positions first."""
    return LLaDA(order="entropy", delayed_ids=delayed_ids)


register("llada", LLaDA)
register("llada-random", llada_random)
register("llada-margin", llada_margin)
register("llada-entropy", llada_entropy)

"""Mask all but the most confident positions again, by a schedule and noisy scores: MaskGIT.

    masked after step i of S:  n_i = floor(gamma((i + 1) / S) N), 0 after the last step;
    every step writes at least one position
    score = ln p(v) + choice_temperature (1 - (i + 1) / S) Gumbel
    gamma(r):  cosine cos(pi r / 2);  linear 1 - r;  square 1 - r^2

Chang et al. 2022, "MaskGIT: Masked Generative Image Transformer", arXiv:2202.04200, section
3.2-3.3, and the released parallel decoding.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dlm_sampling.ops import Stream, top_k_positions
from dlm_sampling.samplers.base import BlockTotal, DelayingSampler, block_total, reveal
from dlm_sampling.samplers.parts.checks import at_least
from dlm_sampling.samplers.parts.quotas import floor_share
from dlm_sampling.samplers.registry import register
from dlm_sampling.types import Canvas, Choice, Clock, Predict, RandomSource, Step

MaskScheduleName = Literal["cosine", "linear", "square"]

MASK_SCHEDULES: dict[str, Callable[[Tensor], Tensor]] = {
    "cosine": lambda r: torch.cos(r * (math.pi / 2)),
    "linear": lambda r: 1.0 - r,
    "square": lambda r: 1.0 - r * r,
}


@dataclass(frozen=True)
class MaskGIT(DelayingSampler[BlockTotal]):
    """Draw every masked token, keep the most confident by a noisy score, and mask the rest again.

    Fields:
        mask_schedule: gamma, the share of positions that stays masked: "cosine" (the paper's),
            "linear" or "square".
        choice_temperature: scale of the Gumbel noise on the log-confidence, >= 0, falling linearly
            to 0 at the last step; 0 takes the most confident positions.

    NFE: min(steps, tokens) per block.
    """

    mask_schedule: MaskScheduleName = "cosine"
    choice_temperature: float = 4.5

    paper = "Chang et al. 2022, arXiv:2202.04200"
    nfe = "min(steps, tokens)"

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("choice_temperature", self.choice_temperature, 0.0, "the released value is 4.5")

    @property
    def exact(self) -> bool:
        """Return False: the score is read at the drawn token."""
        return False

    def init(self, canvas: Canvas) -> BlockTotal:
        """Return zeros; positions are counted when a row enters a block."""
        return BlockTotal(torch.zeros_like(canvas.start))

    def step(
        self, state: BlockTotal, canvas: Canvas, clock: Clock, predict: Predict, rng: RandomSource
    ) -> tuple[BlockTotal, Step]:
        """Write all but n_i of the masked positions."""
        eligible = canvas.eligible
        total = block_total(state.total, canvas, clock)
        draw = predict(canvas.tokens, canvas.unknown_fraction).draw(eligible, rng)
        noise = rng.gumbel(Stream.POSITION, canvas.tokens) * self.temperature(clock).unsqueeze(1)
        quota = eligible.sum(1) - self.left_masked(total, eligible.sum(1), clock)
        score = self.rank(draw.log_confidence.double() + noise, draw, eligible)
        where = top_k_positions(score, eligible, quota)
        return BlockTotal(total), reveal(canvas, where, draw)

    def choice_logprob(self, canvas: Canvas, clock: Clock, choice: Choice) -> Tensor | None:
        """Return 0 as its base does, None where noise is added to the confidence."""
        noisy = self.choice_temperature > 0.0
        return None if noisy else super().choice_logprob(canvas, clock, choice)

    def temperature(self, clock: Clock) -> Tensor:
        """Return choice_temperature (1 - (i + 1) / S), float64 [B]."""
        return self.choice_temperature * (1.0 - _progress(clock))

    def left_masked(self, total: Tensor, masked: Tensor, clock: Clock) -> Tensor:
        """Return n_i, int64 [B]: from 1 to one less than is masked now, and 0 in the last step."""
        share = MASK_SCHEDULES[self.mask_schedule](_progress(clock))
        left = floor_share(total, share).clamp_min(1)
        return torch.minimum(left, masked - 1).clamp_min(0).masked_fill(clock.last, 0)


def _progress(clock: Clock) -> Tensor:
    """Return (i + 1) / S, float64 [B]."""
    return ((clock.step + 1).double() / clock.steps.double()).clamp(max=1.0)


register("maskgit", MaskGIT)

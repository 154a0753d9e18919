"""Write every position that is confident enough, however many there are: Fast-dLLM.

    threshold:  commit position i if p_i >= tau
    factor:     with c_1 >= c_2 >= ... the sorted confidences, commit the first k of them,
                k the largest number with (n + 1) (1 - c_n) <= f for all n = 2 .. k

and always the most confident position.  p_i is the probability of the drawn token under the model's
own law.  Wu et al. 2025, "Fast-dLLM", arXiv:2505.22618, and the released `generate`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dlm_sampling.ops import threshold_positions, top_k_positions
from dlm_sampling.samplers.base import (
    AdaptiveSampler,
    BlockTotal,
    ConfidenceSampler,
    DelayingSampler,
    block_total,
    reveal,
)
from dlm_sampling.samplers.parts.checks import at_least, log_threshold, probability_threshold
from dlm_sampling.samplers.registry import register
from dlm_sampling.types import Canvas, Clock, Predict, RandomSource, Step

_PAPER = "Wu et al. 2025, arXiv:2505.22618"


@dataclass(frozen=True)
class FastDLLM(ConfidenceSampler):
    """Write all positions whose confidence is at least `threshold`, and always the best one.

    The number of steps is not used: a block takes as many as it needs.  The authors decode blocks
    of 32.

    Fields:
        threshold: tau; above 1, to 1.5, it is one token per step.

    NFE: adaptive, 1 to the number of tokens.
    """

    threshold: float = 0.9

    paper = _PAPER

    def __post_init__(self) -> None:
        super().__post_init__()
        probability_threshold("threshold", self.threshold, "try 0.9; above 1 is one token per step")

    def positions(self, log_confidence: Tensor, eligible: Tensor) -> Tensor:
        """Return the positions that pass the threshold, and the best one, bool [B, L]."""
        return threshold_positions(log_confidence, eligible, log_threshold(self.threshold))


@dataclass(frozen=True)
class FastDLLMFactor(ConfidenceSampler):
    """Write the longest head of the sorted confidences whose n-th is at least 1 - factor / (n + 1).

    Fields:
        factor: f; 0 is one token per step, larger is faster.
        released: restore the authors' off-by-one: where the only position that fails is the last
            unknown one of the block, it is written too.

    NFE: adaptive, 1 to the number of tokens.
    """

    factor: float = 1.0
    released: bool = False

    paper = _PAPER

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("factor", self.factor, 0.0, "the released default is 1; 0 is one token per step")

    def positions(self, log_confidence: Tensor, eligible: Tensor) -> Tensor:
        """Return the head that passes, bool [B, L]."""
        count = self.count(log_confidence.exp(), eligible)
        return top_k_positions(log_confidence, eligible, count)

    def count(self, confidence: Tensor, eligible: Tensor) -> Tensor:
        """Return how many positions to write, int64 [B]; confidence [B, L] in [0, 1]."""
        unknown = eligible.sum(1)
        ranked = confidence.masked_fill(~eligible, -1.0).sort(dim=1, descending=True).values
        rank = torch.arange(1, ranked.shape[1] + 1, device=ranked.device)
        passed = (ranked >= 1.0 - self.factor / (rank + 1.0)) | (rank == 1)
        count = torch.minimum(passed.long().cumprod(1).sum(1), unknown)
        return torch.where(count == unknown - 1, unknown, count) if self.released else count


@dataclass(frozen=True)
class FastDLLMDream(DelayingSampler[BlockTotal], AdaptiveSampler[BlockTotal]):
    """Write the best positions within a growing budget if their confidence is at least `threshold`.

        budget_i = (LLaDA's quotas of steps 0 .. i) - (positions written so far)

    and always the best one.  What fails the threshold stays in the budget of the next step; after
    the planned steps the budget is everything that is left.  Confidence is that of the filtered and
    tempered law.

    Fields:
        threshold: tau; above 1, to 1.5, it is one token per step.

    NFE: adaptive, min(steps, tokens) to the number of tokens.
    """

    threshold: float = 0.9

    paper = _PAPER
    nfe = "adaptive; min(steps, tokens) to tokens"

    def __post_init__(self) -> None:
        super().__post_init__()
        probability_threshold("threshold", self.threshold, "try 0.9; above 1 is one token per step")

    def schedule_length(self, steps: int) -> None:
        """Return None: a block goes on until nothing is unknown, also beyond its steps."""

    def init(self, canvas: Canvas) -> BlockTotal:
        """Return zeros; positions are counted when a row enters a block."""
        return BlockTotal(torch.zeros_like(canvas.start))

    def step(
        self,
        state: BlockTotal,
        canvas: Canvas,
        clock: Clock,
        predict: Predict,
        rng: RandomSource,
    ) -> tuple[BlockTotal, Step]:
        """Write the positions that pass the threshold within the budget."""
        eligible = canvas.eligible
        unknown = eligible.sum(1)
        total = block_total(state.total, canvas, clock)
        budget = planned(total, clock) - (total - unknown)
        draw = predict(canvas.tokens, canvas.unknown_fraction).draw(eligible, rng, statistics="law")
        among = self.in_time(draw, eligible)
        allowed = top_k_positions(draw.log_confidence, among, budget.clamp_min(1))
        bound = log_threshold(self.threshold)
        where = threshold_positions(draw.log_confidence, allowed, bound)
        return BlockTotal(total), reveal(canvas, where, draw)


def planned(total: Tensor, clock: Clock) -> Tensor:
    """Return the positions that LLaDA's quotas write up to and including this step, int64 [B]."""
    done = torch.minimum(clock.step + 1, clock.steps)
    return done * (total // clock.steps) + torch.minimum(done, total % clock.steps)


register("fast-dllm", FastDLLM)
register("fast-dllm-factor", FastDLLMFactor)
register("fast-dllm-dream", FastDLLMDream)

"""Write confident tokens in small blocks of a block, the first one alone: Fast-dLLM v2.

    lead        where the first position of the block is unknown, write it alone
    otherwise   S = the first sub-block of the block with unknown positions,
                write every unknown i in S with c_i > tau, and always the best of them

c_i is the probability of the drawn token under the sampled law.  The lead is the next token of an
autoregressive model: with a shift of one (`Denoiser.shift`) it follows from the finished blocks
alone, in the pass that also stores the block before it, so that the other positions of the block
are first predicted beside a token and not beside its mask.

Wu et al. 2025, "Fast-dLLM v2: Efficient Block-Diffusion LLM", arXiv:2509.26328, and the released
`generate` without its approximate cache of sub-blocks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dlm_sampling.ops import top_k_positions
from dlm_sampling.samplers.base import AdaptiveSampler, reveal
from dlm_sampling.samplers.parts.checks import at_least, log_threshold, probability_threshold
from dlm_sampling.samplers.registry import register
from dlm_sampling.types import Canvas, Choice, Clock, Predict, RandomSource, Step


@dataclass(frozen=True)
class FastDLLMv2(AdaptiveSampler[None]):
    """Write what is confident in the first unfinished sub-block, and a block's first token alone.

    Meant for block-causal models with a shift, in blocks of 32 from the first token of a row
    (`align_blocks`).  Sub-blocks count from the beginning of the block, prompt tail included.  The
    number of steps is not used.

    Fields:
        threshold: tau, compared strictly; above 1, to 1.5, it is one token per step.
        sub_block: positions of a sub-block; as many as a block has are one sub-block.
        lead: whether the first position of a block is written alone.

    NFE: adaptive, 1 per sub-block to the number of tokens, and 1 per lead.
    """

    threshold: float = 0.9
    sub_block: int = 8
    lead: bool = True

    paper = "Wu et al. 2025, arXiv:2509.26328"

    def __post_init__(self) -> None:
        super().__post_init__()
        probability_threshold("threshold", self.threshold, "the released value is 0.9")
        at_least("sub_block", self.sub_block, 1, "the released value is 8")

    def choice_logprob(self, canvas: Canvas, clock: Clock, choice: Choice) -> Tensor | None:
        """Return 0 where the tokens are an argmax, which alone the choice then reads."""
        zero = torch.zeros_like(canvas.start, dtype=torch.float64)
        return zero if choice.greedy else None

    def step(
        self, state: None, canvas: Canvas, clock: Clock, predict: Predict, rng: RandomSource
    ) -> tuple[None, Step]:
        """Write the lead, or the confident positions of the sub-block."""
        among = self.among(canvas)
        prediction = predict(canvas.tokens, canvas.unknown_fraction)
        draw = prediction.draw(among, rng, statistics="law")
        confident = among & (draw.log_confidence > log_threshold(self.threshold))
        best = top_k_positions(draw.log_confidence, among, torch.ones_like(canvas.start))
        return None, reveal(canvas, confident | best, draw)

    def among(self, canvas: Canvas) -> Tensor:
        """Return the positions that this step may write, bool [B, L]."""
        eligible = canvas.eligible
        length = eligible.shape[1]
        column = torch.arange(length, device=eligible.device)
        place = column - canvas.start.unsqueeze(1)
        part = torch.div(place, self.sub_block, rounding_mode="floor")
        first = part.masked_fill(~eligible, length).amin(1, keepdim=True)
        among = eligible & (part == first)
        if not self.lead:
            return among
        lead = eligible & (place == 0)
        return torch.where(lead.any(1, keepdim=True), lead, among)


register("fast-dllm-v2", FastDLLMv2)

"""Write several blocks at the same time, each a step behind the one on its left: D2F.

    progress(b)     known share of block b
    semi-active     commit position i if p_i >= tau
    active          the same, and always the most confident position
    activate b      progress(b - 1) >= activate
    add the next    progress(last) >= add, if fewer than `buffer` blocks are under way

p_i is the probability of the drawn token under the model's own law.  With one block at a time this
is Fast-dLLM's threshold rule.

A later block is written while earlier ones still hold masks, which is another law than that of
blocks one after the other: it is made for networks trained on blocks whose noise rises from left to
right (D2F's and MultiBD's checkpoints).  Their canvas grows, so that nothing right of the last
block is seen: `causal_blocks=True`, or a network with block-causal attention.

Wang et al. 2025, "Diffusion LLMs Can Do Faster-Than-AR Inference via Discrete Diffusion Forcing",
arXiv:2508.09192, and the released code.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dlm_sampling.samplers.base import AdaptiveSampler, reveal
from dlm_sampling.samplers.parts.checks import log_threshold, probability_threshold
from dlm_sampling.samplers.parts.pipelines import check_pipeline, positions_in_blocks
from dlm_sampling.samplers.registry import register
from dlm_sampling.types import Canvas, Choice, Clock, Pipeline, Predict, RandomSource, Step


@dataclass(frozen=True)
class D2F(AdaptiveSampler[None]):
    """Write all confident positions of a pipeline of blocks, and the best one of active blocks.

    The number of steps is not used; blocks have 32 positions unless block_length says otherwise.
    The authors set `add` to 0.1, 0.7 or 0.9 by task.  MultiBD (Diffulex) is add=0.1, activate=0.9,
    buffer=4.  One block at a time is add=1 or buffer=1.

    Fields:
        threshold: tau; above 1, to 1.5, semi-active blocks write nothing.
        add: known share of the last block at which the next one joins, in (0, 1].
        activate: known share of a block at which the next one must write in every step.
        buffer: most blocks at a time, or None for no bound.

    NFE: adaptive, 1 to the number of tokens.
    """

    threshold: float = 0.9
    add: float = 0.7
    activate: float = 0.95
    buffer: int | None = None

    paper = "Wang et al. 2025, arXiv:2508.09192"

    def __post_init__(self) -> None:
        super().__post_init__()
        probability_threshold("threshold", self.threshold, "the released value is 0.9")
        check_pipeline(self.pipeline)

    @property
    def pipeline(self) -> Pipeline:
        """Return how blocks follow each other."""
        return Pipeline(self.add, self.activate, self.buffer)

    def choice_logprob(self, canvas: Canvas, clock: Clock, choice: Choice) -> Tensor | None:
        """Return 0 where the drawn tokens are an argmax: the confidence then follows."""
        return torch.zeros_like(canvas.start, dtype=torch.float64) if choice.greedy else None

    def step(
        self, state: None, canvas: Canvas, clock: Clock, predict: Predict, rng: RandomSource
    ) -> tuple[None, Step]:
        """Draw at every unknown position under way, and write what its block allows."""
        draw = predict(canvas.tokens, canvas.unknown_fraction).draw(canvas.eligible, rng)
        tau = log_threshold(self.threshold)
        return None, reveal(
            canvas, positions_in_blocks(draw.log_confidence, canvas, tau, every=True), draw
        )


register("d2f", D2F)

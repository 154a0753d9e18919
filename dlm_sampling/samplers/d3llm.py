"""Write several blocks at the same time wherever the model is hardly uncertain: d3LLM.

    commit position i of a block under way if H_i <= bound
    the first block under way also commits the position of least entropy
    add the next block    known share of the last one >= add, or all of it known

H_i is the entropy of the model's own law at temperature 1, in nats.  Made for networks distilled
along the trajectories of a teacher; others are shown canvases that training did not have.  The
whole canvas is seen, so `causal_blocks` stays False; the released loop also writes everything
behind an end of text at once: eos="fill".

Qian et al. 2026, "d3LLM", arXiv:2601.07568, and the released code.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dlm_sampling.samplers.base import SamplerBase, reveal
from dlm_sampling.samplers.parts.checks import at_least
from dlm_sampling.samplers.parts.pipelines import check_pipeline, positions_in_blocks
from dlm_sampling.samplers.registry import register
from dlm_sampling.types import (
    Canvas,
    Choice,
    Clock,
    Pipeline,
    Predict,
    RandomSource,
    Step,
    TokenLaw,
)


@dataclass(frozen=True)
class D3LLM(SamplerBase[None]):
    """Write all positions of a pipeline of blocks whose entropy is at most `bound` nats.

    The number of steps is not used; blocks have 32 positions unless block_length says otherwise.
    The released loop also names a share, 0.95, at which a block may be asked for a token in every
    step; it asks the first block with masks alone, whose left neighbour is complete in any case.

    Fields:
        bound: largest entropy in nats; the authors set 0.4 to 0.5.
        add: known share of the last block at which the next one joins, in (0, 1].
        buffer: most blocks at a time, or None for no bound.

    NFE: adaptive, 1 to the number of tokens.
    """

    bound: float = 0.5
    add: float = 0.1
    buffer: int | None = None

    law = TokenLaw(temperature=0.0)
    paper = "Qian et al. 2026, arXiv:2601.07568"
    nfe = "adaptive; 1 to tokens"

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("bound", self.bound, 0.0, "the authors set 0.4 to 0.5")
        check_pipeline(self.pipeline)

    @property
    def pipeline(self) -> Pipeline:
        """Return how blocks follow each other."""
        return Pipeline(self.add, 1.0, self.buffer)

    def schedule_length(self, steps: int) -> None:
        """Return None: a block goes on until nothing in it is unknown."""

    def choice_logprob(self, canvas: Canvas, clock: Clock, choice: Choice) -> Tensor | None:
        """Return 0: canvas and model leave no choice."""
        return torch.zeros_like(canvas.start, dtype=torch.float64)

    def step(
        self, state: None, canvas: Canvas, clock: Clock, predict: Predict, rng: RandomSource
    ) -> tuple[None, Step]:
        """Draw at every unknown position under way, and write where the entropy is low."""
        draw = predict(canvas.tokens, canvas.unknown_fraction).draw(canvas.eligible, rng)
        where = positions_in_blocks(-draw.entropy, canvas, -self.bound, every=False)
        return None, reveal(canvas, where, draw)


register("d3llm", D3LLM)

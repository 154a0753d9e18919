"""Write confident tokens block by block and edit written ones, as LLaDA 2.x decodes.

    c_i = probability of the drawn token v_i under the sampled law
    q   = even split of the block over its steps
    write: all masked i with c_i > tau if they are at least q, else the q best;
    edit:  all written i with v_i != x_i and c_i > tau_edit.
    After the last mask the edits go on until a step makes none.

Bie et al. 2025, "LLaDA2.0", arXiv:2512.15745; Bie et al. 2026, "LLaDA2.1: Speeding Up Text
Diffusion via Token Editing", arXiv:2602.08676; the released `BlockRefinementScheduler` and
`LLaDA2Pipeline`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dlm_sampling.samplers.base import DelayingSampler, reveal
from dlm_sampling.samplers.parts.checks import above_zero, at_least, probability_threshold
from dlm_sampling.samplers.parts.quotas import block_quota, confident_or_quota
from dlm_sampling.samplers.registry import register
from dlm_sampling.types import Canvas, Clock, Draw, Predict, RandomSource, Step, TokenLaw


class RefinementState(NamedTuple):
    """Hold the facts that decide whether a block is over."""

    had_mask: Tensor  # bool [B], whether a mask was left before the last step
    edited: Tensor  # bool [B], whether the last step replaced a token
    post_steps: Tensor  # int64 [B], steps of this block taken without a mask


@dataclass(frozen=True)
class BlockRefinement(DelayingSampler[RefinementState]):
    """Write every confident token, at least a quota, and replace written tokens by confident ones.

    Meant for block-causal models: `align_blocks` and `causal_blocks` of the loop.  The quota is
    that of the whole block, prompt tail included.  A block that needs all its planned steps to fill
    gets no further edits, as released.

    Fields:
        threshold: tau, compared strictly; above 1, to 1.5, the quota alone decides.
        editing_threshold: tau_edit, compared strictly; None never edits.
        max_post_steps: most steps of a block after its last mask.

    NFE: 1 to steps per block, and with edits up to max_post_steps more.
    """

    threshold: float = 0.95
    editing_threshold: float | None = None
    max_post_steps: int = 16

    law = TokenLaw(temperature=0.0)
    paper = "Bie et al. 2026, arXiv:2602.08676"
    nfe = "at most steps per block; with edits up to max_post_steps more"

    def __post_init__(self) -> None:
        super().__post_init__()
        probability_threshold("threshold", self.threshold, "released values are 0.95 and 0.7")
        if self.editing_threshold is not None:
            released = "released values are 0.5 and 0.9, and None is no edits"
            above_zero("editing_threshold", self.editing_threshold, released)
            probability_threshold("editing_threshold", self.editing_threshold, released)
        at_least("max_post_steps", self.max_post_steps, 0, "the released value is 16")

    @property
    def revises(self) -> bool:
        """Return whether written tokens may be replaced."""
        return self.editing_threshold is not None

    @property
    def constrainable(self) -> bool:
        """Return whether written tokens stay, so that a constraint can hold."""
        return not self.revises

    @property
    def exact(self) -> bool:
        """Return False: confidence is read at the drawn token."""
        return False

    def schedule_length(self, steps: int) -> None:
        """Return None: a block ends by its own rule, see `finished`."""

    def init(self, canvas: Canvas) -> RefinementState:
        """Return a state that is set when a row enters a block."""
        nothing = torch.zeros_like(canvas.start, dtype=torch.bool)
        return RefinementState(nothing, nothing.clone(), torch.zeros_like(canvas.start))

    def step(
        self,
        state: RefinementState,
        canvas: Canvas,
        clock: Clock,
        predict: Predict,
        rng: RandomSource,
    ) -> tuple[RefinementState, Step]:
        """Write and edit."""
        draw = predict(canvas.tokens, canvas.unknown_fraction).draw(
            self.drawn(canvas), rng, statistics="law"
        )
        confidence = draw.log_confidence.exp()
        write = confident_or_quota(
            self.rank(confidence, draw, canvas.eligible),
            canvas.eligible,
            block_quota(canvas, clock),
            self.threshold,
        )
        had_mask = canvas.left > 0
        if self.editing_threshold is None:
            return state._replace(had_mask=had_mask), reveal(canvas, write, draw)
        edits = self.edits(canvas, draw, confidence, self.editing_threshold)
        past = torch.where(clock.step == 0, 0, state.post_steps)
        state = RefinementState(had_mask, edits.any(1), past + ~had_mask)
        return state, reveal(canvas, write | edits, draw)

    def drawn(self, canvas: Canvas) -> Tensor:
        """Return the positions whose draw can change the canvas, bool [B, L]."""
        return canvas.editable if self.revises else canvas.eligible

    def edits(self, canvas: Canvas, draw: Draw, confidence: Tensor, threshold: float) -> Tensor:
        """Return the written positions to replace, bool [B, L]."""
        return canvas.committed & (draw.token != canvas.tokens) & (confidence > threshold)

    def finished(self, state: RefinementState, canvas: Canvas, clock: Clock) -> Tensor:
        """Return the rows whose last step had no mask and no edit, or whose steps are used up."""
        settled = ~state.had_mask & (~state.edited | (state.post_steps >= self.max_post_steps))
        over = settled | (state.had_mask & clock.last)
        return over if self.max_post_steps else over | (state.had_mask & (canvas.left == 0))


def llada2(threshold: float = 0.95, delayed_ids: tuple[int, ...] = ()) -> BlockRefinement:
    """Decode as LLaDA 2.0: threshold and quota without edits, blocks of 32 with 32 steps."""
    return BlockRefinement(threshold, delayed_ids=delayed_ids)


def llada21(
    threshold: float = 0.7,
    editing_threshold: float = 0.5,
    max_post_steps: int = 16,
    delayed_ids: tuple[int, ...] = (),
) -> BlockRefinement:
    """Decode as LLaDA 2.1: a low threshold, then edits, in blocks of 32 with 32 steps."""
    return BlockRefinement(threshold, editing_threshold, max_post_steps, delayed_ids=delayed_ids)


register("block-refinement", BlockRefinement)
register("llada2", llada2)
register("llada2.1", llada21)

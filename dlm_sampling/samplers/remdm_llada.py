"""Add ReMDM's loop to LLaDA's confidence decoding.

Unmask the most confident positions until a share of the block is written; then, `loop_steps` times,
mask the k least probable written tokens and unmask the k most confident masked positions; then
write the rest.

The rule of `generate_with_remdm` in the PC-Sampler repository (Huang et al. 2025,
arXiv:2508.13021), after ReMDM, Wang et al. 2025, arXiv:2503.00307.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dlm_sampling.ops import any_or_assume, top_k_positions
from dlm_sampling.samplers.base import DelayingSampler, block_total, even_quota, reveal
from dlm_sampling.samplers.parts.checks import at_least, unit_interval
from dlm_sampling.samplers.parts.remasking import reveal_and_remask
from dlm_sampling.samplers.registry import register
from dlm_sampling.types import Canvas, Clock, Predict, RandomSource, Step, TokenLaw


class ReMDMLLaDAState(NamedTuple):
    """Hold the size of the block, and how many positions the last step masked again."""

    total: Tensor  # int64 [B], unknown positions when the block began
    remasked: Tensor  # int64 [B], positions masked again in the last step


class _Phase(NamedTuple):
    """Hold where a row stands in its block, bool and int64 [B]."""

    looping: Tensor  # between the first and the last unmasking
    remasks: Tensor  # this step masks; the next one writes
    unmasking: Tensor  # index among the plain unmasking steps


@dataclass(frozen=True)
class ReMDMLLaDA(DelayingSampler[ReMDMLLaDAState]):
    """Decode by confidence, pause to replace the least probable tokens, then finish.

    The planned steps share the positions of a block by LLaDA's quota; the released code plans
    tokens / unmask_k steps.  A loop may write the token that it has just masked again.

    Fields:
        init_unmask_ratio: share of the planned steps before the loops, in [0, 1].
        loop_steps: number of loops, each of which masks again and rewrites.
        unmask_k: tokens masked and written again per loop.

    NFE: min(steps, tokens) + 2 loop_steps per block.
    """

    init_unmask_ratio: float = 0.875
    loop_steps: int = 32
    unmask_k: int = 1

    law = TokenLaw(temperature=0.0)
    paper = "Huang et al. 2025, arXiv:2508.13021; Wang et al. 2025, arXiv:2503.00307"
    nfe = "min(steps, tokens) + 2 loop_steps"

    def __post_init__(self) -> None:
        super().__post_init__()
        unit_interval("init_unmask_ratio", self.init_unmask_ratio, "the released value is 0.875")
        at_least("loop_steps", self.loop_steps, 0, "the released value is 32, 0 is LLaDA")
        at_least("unmask_k", self.unmask_k, 1, "the released value is 1")

    @property
    def revises(self) -> bool:
        """Return True: written tokens may be masked again."""
        return True

    @property
    def exact(self) -> bool:
        """Return False: positions depend on the drawn tokens."""
        return False

    def schedule_length(self, steps: int) -> int:
        """Return the planned steps and two per loop."""
        return steps + 2 * self.loop_steps

    def init(self, canvas: Canvas) -> ReMDMLLaDAState:
        """Return zeros; positions are counted when a row enters a block."""
        zero = torch.zeros_like(canvas.start)
        return ReMDMLLaDAState(zero, zero)

    def step(
        self,
        state: ReMDMLLaDAState,
        canvas: Canvas,
        clock: Clock,
        predict: Predict,
        rng: RandomSource,
    ) -> tuple[ReMDMLLaDAState, Step]:
        """Unmask, or mask again."""
        total = block_total(state.total, canvas, clock)
        phase = self.phase(clock)
        quota = even_quota(total, Clock(phase.unmasking, clock.steps))
        quota = torch.where(phase.looping, state.remasked, quota).masked_fill(phase.remasks, 0)
        prediction = predict(canvas.tokens, canvas.unknown_fraction)
        draw = prediction.draw(canvas.eligible & (quota > 0).unsqueeze(1), rng)
        score = self.rank(draw.log_confidence, draw, canvas.eligible)
        where = top_k_positions(score, canvas.eligible, quota)
        if not any_or_assume(phase.remasks):
            return ReMDMLLaDAState(total, torch.zeros_like(quota)), reveal(canvas, where, draw)
        candidates = canvas.committed & phase.remasks.unsqueeze(1)
        unlikely = -prediction.log_prob_of(canvas.tokens, candidates)
        remask = top_k_positions(unlikely, candidates, torch.full_like(quota, self.unmask_k))
        return ReMDMLLaDAState(total, remask.sum(1)), reveal_and_remask(canvas, where, remask, draw)

    def phase(self, clock: Clock) -> _Phase:
        """Return the phase of each row: unmasking up to the ratio, loops of two steps, the rest."""
        before = (clock.steps.double() * self.init_unmask_ratio).round().long()
        after = before + 2 * self.loop_steps
        looping = (clock.step >= before) & (clock.step < after)
        remasks = looping & ((clock.step - before) % 2 == 0)
        unmasking = torch.where(clock.step >= after, clock.step - 2 * self.loop_steps, clock.step)
        return _Phase(looping, remasks, unmasking)


register("remdm-llada", ReMDMLLaDA)

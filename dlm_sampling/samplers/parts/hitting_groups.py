"""Hold the base of samplers that write each mask at its hitting time, a group per forward pass.

It is the base of `FirstHitting` (whole canvas) and `BD3LM` (within blocks, with a nucleus law).  A
subclass says by `hits` when positions are hit and how the hits are grouped.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

from torch import Tensor

from dlm_sampling.samplers.base import SamplerBase, reveal
from dlm_sampling.samplers.parts.hitting_times import Hits, HitState
from dlm_sampling.types import Canvas, Choice, Clock, Predict, RandomSource, Step


@dataclass(frozen=True)
class HittingSampler(SamplerBase[HitState]):
    """Write the hits of each group together, at the time of its first."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.hits  # which checks the fields

    @property
    @abstractmethod
    def hits(self) -> Hits:
        """Return the rule that draws this sampler's hitting times and groups them."""

    def schedule_length(self, steps: int) -> int | None:
        """Return the number of groups; None if that depends on the row, see `tokens_per_step`."""
        return self.hits.schedule_length(steps)

    def init(self, canvas: Canvas) -> HitState:
        """Return times of 0; they are drawn when a row enters a block."""
        return self.hits.init(canvas)

    def step(
        self, state: HitState, canvas: Canvas, clock: Clock, predict: Predict, rng: RandomSource
    ) -> tuple[HitState, Step]:
        """Write the next group of hits."""
        state = self.hits.enter_block(state, canvas, clock, rng)
        where, t = self.hits.next_group(state, canvas, clock)
        return state, reveal(canvas, where, predict(canvas.tokens, t).draw(where, rng))

    def choice_logprob(self, canvas: Canvas, clock: Clock, choice: Choice) -> Tensor:
        """Return the law of the next group, with the hitting times summed out."""
        return self.hits.log_group(canvas, clock, choice.written)

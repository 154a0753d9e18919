"""Samplers that write masks at their hitting times, one group of hits per forward pass.

First-hitting sampling is this on whole canvases, BD3-LM's sampler the same within blocks and with
its own token law; they differ in their fields.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

from dlm_sampling.samplers.base import SamplerBase, reveal
from dlm_sampling.samplers.parts.hitting_times import Hits, HitState
from dlm_sampling.types import Canvas, Clock, Predict, RandomSource, Step


@dataclass(frozen=True)
class HittingSampler(SamplerBase[HitState]):
    """Write the hits of each group together, at the time of its first."""

    def __post_init__(self) -> None:
        _ = self.hits  # which checks the fields

    @property
    @abstractmethod
    def hits(self) -> Hits:
        """When which position is hit."""

    def schedule_length(self, steps: int) -> int | None:
        """Number of groups; None, until nothing is unknown, where it depends on the tokens."""
        return self.hits.schedule_length(steps)

    def init(self, canvas: Canvas) -> HitState:
        """Times are drawn when a row enters a block."""
        return self.hits.init(canvas)

    def step(
        self, state: HitState, canvas: Canvas, clock: Clock, predict: Predict, rng: RandomSource
    ) -> tuple[HitState, Step]:
        """Write the next group of hits."""
        state = self.hits.enter_block(state, canvas, clock, rng)
        where, t = self.hits.next_group(state, canvas, clock)
        return state, reveal(canvas, where, predict(canvas.tokens, t).draw(where, rng))

"""The contract of a sampler."""

from __future__ import annotations

from typing import Protocol, TypeVar

from torch import Tensor

from dlm_sampling.types.canvas import Canvas, Clock, Step
from dlm_sampling.types.prediction import Predict
from dlm_sampling.types.process import NoiseKind as NoiseKind
from dlm_sampling.types.process import RandomSource

S = TypeVar("S")


class Sampler(Protocol[S]):
    """The rule that moves a canvas one step.  Implementations are frozen dataclasses.

    The state is a NamedTuple (or None) of tensors whose leading dimension is B, so that the loop
    can drop finished rows.  A row enters a new block with `clock.step == 0`; state that belongs to
    a block is reset there by the sampler, row by row.
    """

    @property
    def revises(self) -> bool:
        """Whether committed tokens may change: a block is then over when its schedule is."""
        ...

    @property
    def exact(self) -> bool:
        """Whether the sum of `Step.logprob` is exact: log p(tokens given the positions)."""
        ...

    def schedule_length(self, steps: int) -> int | None:
        """Loop steps of a block planned with `steps`; None: until nothing is unknown."""
        ...

    def patience(self, length: int) -> int:
        """Loop steps after which an adaptive block of a canvas of `length` counts as stuck."""
        ...

    def finished(self, state: S, canvas: Canvas, clock: Clock) -> Tensor | None:
        """Rows whose block is over after the step just taken, bool [B]; None leaves it to the loop.

        state and canvas are those after the step, clock is that of the step.  A block also ends
        with its schedule, and an unmask-only one once nothing is unknown; what is unknown at its
        end is filled.
        """
        ...

    def init(self, canvas: Canvas) -> S:
        """State before the first step."""
        ...

    def step(
        self, state: S, canvas: Canvas, clock: Clock, predict: Predict, rng: RandomSource
    ) -> tuple[S, Step]:
        """Move every row from its step to the next."""
        ...

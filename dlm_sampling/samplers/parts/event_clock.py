"""Hold the base of samplers that simulate one event at a time, with a clock for every row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dlm_sampling.samplers.base import Solver
from dlm_sampling.samplers.parts.checks import NoiseRemoval, check_t_end
from dlm_sampling.samplers.parts.kept_laws import merge_draws
from dlm_sampling.samplers.parts.table_step import draw_clean, write_draws
from dlm_sampling.schedules import LOG_LINEAR, Schedule
from dlm_sampling.types import (
    Canvas,
    Clock,
    Draw,
    Prediction,
    Process,
    RandomSource,
    Step,
)


class EventState(NamedTuple):
    """Hold the clock of every row."""

    t: Tensor  # float64 [B], time of the last event
    over: Tensor  # bool [B], whether the block is written


class Moment(NamedTuple):
    """Hold the prediction that a loop step reads, and its noise level."""

    process: Process
    prediction: Prediction
    alpha: Tensor  # float64 [B], level of the canvas
    ending: Tensor  # bool [B], rows that take their last step


@dataclass(frozen=True)
class EventSampler(Solver[EventState]):
    """Simulate events from time 1 to t_end, then draw noisy positions from their posterior.

    `steps` has no effect: the number of events is random.

    Fields:
        schedule: alpha(t); alpha(1) > 0 without a mask.
        t_end: the time at which the events end.
        noise_removal: the rule of the last step, a "sample" or the "argmax" of the posterior.
    """

    schedule: Schedule = LOG_LINEAR
    t_end: float = 1e-5
    noise_removal: NoiseRemoval = "sample"

    runs_on = ("absorbing", "uniform")
    recorded_on = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_t_end(self.t_end)

    @property
    def revises(self) -> bool:
        """Return True: without a mask a token may change again."""
        return True

    def schedule_length(self, steps: int) -> None:
        """Return None: events end a block, not a count of steps."""
        return

    def patience(self, length: int) -> int:
        """Return a bound far beyond the number of events, which is about 18 per position."""
        return 200 * length + 1000

    def finished(self, state: EventState, canvas: Canvas, clock: Clock) -> Tensor:
        """Return the rows whose block is written."""
        return state.over

    def init(self, canvas: Canvas) -> EventState:
        """Start every clock at time 1, where a row enters a block."""
        over = torch.zeros_like(canvas.start, dtype=torch.bool)
        return EventState(torch.ones_like(canvas.start, dtype=torch.float64), over)

    def outcome(
        self, canvas: Canvas, where: Tensor, draw: Draw, s: Tensor, now: Moment, rng: RandomSource
    ) -> tuple[EventState, Step]:
        """Write the draws at `where` (bool [B, L]), and all that is noisy in the rows that end.

        s float64 [B] is the time after the step.
        """
        if bool(now.ending.any()):
            left = canvas.eligible & now.ending.unsqueeze(1)
            final = draw_clean(
                now.process, now.prediction, left, rng, now.alpha, self.noise_removal
            )
            where, draw = where | left, merge_draws(left, final, draw)
        step = write_draws(canvas, draw, where, now.ending)
        return EventState(s, now.ending | ~(step.unknown & canvas.editable).any(1)), step

"""Hold the base of solvers on a time grid whose steps may also change written tokens.

    x_s,i ~ q(. | x_t)   independently;   the last step draws x_0,i from the posterior

On masks q is given by two probabilities (`mask_move`), under other noise by a table (`next_law`);
the table of the absorbing process says the same as the two probabilities.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

from torch import Tensor

from dlm_sampling.processes.tables import one_hot
from dlm_sampling.samplers.base import Solver
from dlm_sampling.samplers.parts.checks import NoiseRemoval
from dlm_sampling.samplers.parts.choices import certain, log_moves
from dlm_sampling.samplers.parts.grid_move import Interval, MaskMove, finish_step, move_masks
from dlm_sampling.samplers.parts.table_step import process_of
from dlm_sampling.schedules import LINEAR, Schedule, grid_time
from dlm_sampling.types import (
    Canvas,
    Choice,
    Clock,
    Predict,
    Prediction,
    PredictionKind,
    Process,
    RandomSource,
    Site,
    Step,
)


@dataclass(frozen=True)
class RevisingGrid(Solver[None]):
    """Take `steps` equal steps from time 1 to 0; the last one removes the remaining noise.

    Fields:
        schedule: alpha(t), the probability that a position is clean at time t.
        noise_removal: the rule of the last step: a "sample" of the posterior, or its "argmax".

    NFE: steps; on masks the number of steps that reveal something.
    """

    schedule: Schedule = LINEAR
    noise_removal: NoiseRemoval = "sample"

    nfe = "steps; on masks the steps that reveal something"
    runs_on = ("absorbing", "uniform")
    scored_on = ("uniform",)
    clock_use = "times"

    def interval(self, clock: Clock) -> Interval:
        """Return the step that each row takes."""
        t, s = (clock.at(grid_time(clock.step + k, clock.steps, 0.0), 0.0) for k in (0, 1))
        return Interval(t, s, clock.step.double() / clock.steps.double())

    def last(self, clock: Clock) -> Tensor:
        """Return the rows that take the noise removal, bool [B]."""
        return clock.last

    def reads(self, process: Process) -> PredictionKind:
        """Return the kind of prediction that `next_law` takes."""
        return process.reads

    def ask(self, predict: Predict, canvas: Canvas, interval: Interval, last: Tensor) -> Prediction:
        """Return the prediction at x_t."""
        return predict(canvas.tokens, interval.t)

    @abstractmethod
    def mask_move(self, interval: Interval) -> MaskMove:
        """Return the probabilities of revealing and of masking again, like `interval.t`."""

    @abstractmethod
    def next_law(self, process: Process, values: Tensor, x: Tensor, interval: Interval) -> Tensor:
        """Return the law of x_s given x_t.

        Args:
            process: the noise.
            values: prediction at x_t of the kind `reads`, float64 [..., V].
            x: x_t, int64 [...].
            interval: times, float64, broadcast to [...].

        Returns:
            [..., V].
        """

    def transition_probs(
        self, canvas: Canvas, log_p: Tensor, interval: Interval, process: Process | None = None
    ) -> Tensor:
        """Return the exact law of x_s given x_t, [B, L, V], at every position of the block.

        Arguments as in `GridSampler.transition_probs`.
        """
        noise, x = process_of(canvas) if process is None else process, canvas.tokens
        shaped = Interval(*(value.expand(x.shape) for value in interval))
        law = self.next_law(noise, log_p.exp(), x, shaped)
        return law.where(canvas.editable.unsqueeze(-1), one_hot(x, law))

    def step(
        self, state: None, canvas: Canvas, clock: Clock, predict: Predict, rng: RandomSource
    ) -> tuple[None, Step]:
        """Move every row from x_t to x_s, or remove its noise."""
        interval, last = self.interval(clock), self.last(clock)
        prediction, removal = self.ask(predict, canvas, interval, last), self.noise_removal
        if canvas.mask_token_id is not None:
            move = self.mask_move(interval)
            return None, move_masks(canvas, prediction, rng, move, last, removal)
        process, alpha = predict.process, self.schedule.alpha(interval.t)

        def rule(site: Site) -> Tensor:
            return self.next_law(process, site.p, site.x, interval.of(site.row))

        moving = canvas.editable & ~last.unsqueeze(1)
        moved = prediction.draw_by(rule, moving, rng, alpha=alpha, reads=self.reads(process))
        return None, finish_step(canvas, moved, prediction, process, rng, alpha, last, removal)

    def choice_logprob(self, canvas: Canvas, clock: Clock, choice: Choice) -> Tensor:
        """Return the law of independent choices; without a mask every position is drawn."""
        if canvas.mask_token_id is None:
            return certain(canvas)
        move = self.mask_move(self.interval(clock))
        return log_moves(canvas, choice, move.reveal, move.remask, self.last(clock))

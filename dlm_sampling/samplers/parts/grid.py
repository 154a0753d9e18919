"""Hold the base of solvers on a time grid, one forward pass per step, positions independent.

On masks a solver is a probability of revealing a masked position in a step from t to s; the token
then has the model's law.  The Bernoulli choice comes first and tokens are drawn only where it
succeeds: the same law as the joint categorical over tokens and mask, without its loss of small
probabilities to rounding.  A step that reveals nothing needs no forward pass.

Under any other noise it is a law of the next token, `next_law`, and every position is drawn.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from dlm_sampling.ops import Stream, any_or_assume
from dlm_sampling.samplers.base import Solver, reveal, unmask_probs
from dlm_sampling.samplers.parts.checks import NoiseRemoval, check_t_end
from dlm_sampling.samplers.parts.choices import certain, log_moves
from dlm_sampling.samplers.parts.kept_laws import merge_draws
from dlm_sampling.samplers.parts.table_step import (
    draw_clean,
    process_of,
    where_unknown,
    write_draws,
)
from dlm_sampling.schedules import LOG_LINEAR, Schedule, grid_time
from dlm_sampling.types import (
    Canvas,
    Choice,
    Clock,
    Draw,
    Predict,
    Prediction,
    PredictionKind,
    Process,
    RandomSource,
    Site,
    Step,
)


@dataclass(frozen=True)
class GridSampler(Solver[None]):
    """Take `steps` equal steps from time 1 to t_end, then remove the remaining noise in one more.

    Fields:
        schedule: alpha(t), the probability that a position is clean at time t.
        t_end: the grid runs from time 1 to t_end in `steps` equal steps.
        noise_removal: the last step writes the positions still masked at t_end, by the "argmax" or
            by a "sample" of the same law; without a mask, every position from the posterior at
            t_end.

    NFE: on masks the number of steps that reveal something, at most min(steps + 1, tokens); else
        steps + 1.
    """

    schedule: Schedule = LOG_LINEAR
    t_end: float = 1e-5
    noise_removal: NoiseRemoval = "argmax"

    nfe = "steps that reveal something, at most min(steps + 1, tokens); without a mask steps + 1"
    runs_on = ("absorbing", "uniform", "matrix")
    scored_on = ("uniform", "matrix")
    clock_use = "times"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_t_end(self.t_end)

    def schedule_length(self, steps: int) -> int:
        """Return steps + 1: the grid and the noise removal."""
        return steps + 1

    def time_at(self, k: Tensor, number: Tensor) -> Tensor:
        """Return the time of grid point k of 0..number, float64 like k; the last one beyond it."""
        return grid_time(k, number, self.t_end)

    def by_tables(self, canvas: Canvas) -> bool:
        """Return whether a step draws every position from `next_law`, as it does without a mask."""
        return canvas.mask_token_id is None

    @abstractmethod
    def reveal_prob(self, t: Tensor, s: Tensor) -> Tensor:
        """Return the probability that a mask is revealed between t and s < t, float64 like t."""

    def reads(self, process: Process) -> PredictionKind:
        """Return the kind of prediction that `next_law` takes."""
        return process.rates_read

    @abstractmethod
    def next_law(self, process: Process, values: Tensor, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """Return the law of x_s given x_t.

        Args:
            process: the noise.
            values: prediction at x_t of the kind `reads`, float64 [..., V].
            x: x_t, int64 [...].
            t: time of x_t, float64, broadcast to [...].
            s: time of x_s, < t, like t.

        Returns:
            [..., V].
        """

    def transition_probs(
        self, canvas: Canvas, log_p: Tensor, t: Tensor, s: Tensor, process: Process | None = None
    ) -> Tensor:
        """Return the exact law of x_s given x_t, [B, L, V]; the noise removal is not part of it.

        Args:
            canvas: x_t.
            log_p: log-law of the clean token, [B, L, V]; without a mask the logarithm of the
                prediction of the kind `reads`.
            t: time of x_t, float64, broadcast to [B, 1].
            s: time of x_s, < t, like t.
            process: the noise; default: masks if the canvas has a mask, else uniform.
        """
        if not self.by_tables(canvas):
            return unmask_probs(canvas, log_p, self.reveal_prob(t, s))
        noise, x = process_of(canvas) if process is None else process, canvas.tokens
        law = self.next_law(noise, log_p.exp(), x, t.expand(x.shape), s.expand(x.shape))
        return where_unknown(canvas, law)

    def step(
        self, state: None, canvas: Canvas, clock: Clock, predict: Predict, rng: RandomSource
    ) -> tuple[None, Step]:
        """Move every row from x_t to x_s."""
        t, s = (clock.at(self.time_at(clock.step + k, clock.steps), self.t_end) for k in (0, 1))
        removal = clock.step >= clock.steps
        if self.by_tables(canvas):
            return None, self.move(canvas, t, s, removal, predict, predict(canvas.tokens, t), rng)
        u = rng.uniform(Stream.COMMIT, canvas.tokens)
        prediction = predict(canvas.tokens, t)
        revealed = u < prediction.reveal_prob(self.reveal_prob(t, s), canvas.eligible)
        where = canvas.eligible & (removal.unsqueeze(1) | revealed)
        greedy = removal if self.noise_removal == "argmax" else None
        draw = prediction.draw(where, rng, greedy=greedy)
        return None, reveal(canvas, where, draw)

    def choice_logprob(self, canvas: Canvas, clock: Clock, choice: Choice) -> Tensor:
        """Return the law of independent choices; every position is drawn from a table."""
        if self.by_tables(canvas):
            return certain(canvas)
        t, s = (clock.at(self.time_at(clock.step + k, clock.steps), self.t_end) for k in (0, 1))
        removal = clock.step >= clock.steps
        return log_moves(canvas, choice, self.reveal_prob(t, s), torch.zeros_like(t), removal)

    def move(
        self,
        canvas: Canvas,
        t: Tensor,
        s: Tensor,
        last: Tensor,
        predict: Predict,
        prediction: Prediction,
        rng: RandomSource,
    ) -> Step:
        """Draw x_s at every position from `next_law`; rows of `last` (bool [B]) remove noise."""
        process, alpha = predict.process, self.schedule.alpha(t)
        ending = last.unsqueeze(1) & canvas.editable
        moved = self.by_table(process, prediction, t, s, canvas.editable & ~ending, rng)
        if not any_or_assume(last):
            return write_draws(canvas, moved, canvas.editable & ~ending, last)
        final = self.remove_noise(process, prediction, ending, rng, alpha)
        return write_draws(canvas, merge_draws(ending, final, moved), canvas.editable, last)

    def by_table(
        self,
        process: Process,
        prediction: Prediction,
        t: Tensor,
        s: Tensor,
        where: Tensor,
        rng: RandomSource,
    ) -> Draw:
        """Draw x_s at `where` (bool [B, L]) from the table of `next_law`."""

        def rule(site: Site) -> Tensor:
            return self.next_law(process, site.p, site.x, t[site.row], s[site.row])

        alpha, reads = self.schedule.alpha(t), self.reads(process)
        return prediction.draw_by(rule, where, rng, alpha=alpha, reads=reads)

    def remove_noise(
        self,
        process: Process,
        prediction: Prediction,
        where: Tensor,
        rng: RandomSource,
        alpha: Tensor,
    ) -> Draw:
        """Draw the last step without a mask at `where` (bool [B, L]); alpha float64 [B]."""
        return draw_clean(process, prediction, where, rng, alpha, self.noise_removal)

    def levels(self, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """Return alpha_t and alpha_s."""
        return self.schedule.alpha(t), self.schedule.alpha(s)

    def rates(self, process: Process, values: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Return the reverse rates at time t, [..., V]; arguments as in `next_law`."""
        return process.rates(values, x, self.schedule.alpha(t), self.schedule.rate(t))

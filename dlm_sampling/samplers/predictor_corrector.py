"""Take a solver's step from t to s, then corrector steps at the time s.

    corrector rates  G(x -> y) = R_s(x -> y) + F_s(x -> y),   R reverse, F forward in time
    corrector step   P(y) = (1 - exp(-h Lambda)) G(x -> y) / Lambda,  Lambda = sum G,
                     h = scale (t - s)

G leaves the law of x_s as it is, sum_x p_s(x) G(x -> y) = 0 with G(x -> x) = -Lambda, so corrector
steps move a canvas towards it.  Masks: reveal at the rate c_s p0, mask again at the rate beta_s.
Campbell et al. 2022, "A Continuous Time Framework for Discrete Denoising Models", arXiv:2205.14987,
section 4.4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from dlm_sampling.processes.jumps import last_event_law
from dlm_sampling.samplers.ancestral import Ancestral
from dlm_sampling.samplers.base import SamplerBase
from dlm_sampling.samplers.euler import Euler
from dlm_sampling.samplers.parts.checks import (
    NoiseRemoval,
    at_least,
    check_t_end,
    unit_interval,
)
from dlm_sampling.samplers.parts.choices import certain, log_moves
from dlm_sampling.samplers.parts.grid import GridSampler
from dlm_sampling.samplers.parts.grid_move import MaskMove, finish_step, move_masks
from dlm_sampling.samplers.parts.kept_laws import merge_draws
from dlm_sampling.samplers.registry import register
from dlm_sampling.samplers.tau_leaping import TauLeaping
from dlm_sampling.samplers.tweedie import Tweedie
from dlm_sampling.schedules import LOG_LINEAR, Schedule, grid_time, masking_rate, reverse_rate
from dlm_sampling.types import (
    Canvas,
    Choice,
    Clock,
    Predict,
    Process,
    RandomSource,
    Site,
    Step,
)

PredictorName = Literal["ancestral", "euler", "tweedie", "tau-leaping"]
_PREDICTORS: dict[str, type[GridSampler]] = {
    "ancestral": Ancestral,
    "euler": Euler,
    "tweedie": Tweedie,
    "tau-leaping": TauLeaping,
}


class Stage(NamedTuple):
    """Hold the kind of loop step that each row takes; [B] each."""

    t: Tensor  # float64, where the interval begins
    s: Tensor  # float64, where it ends
    corrects: Tensor  # bool, a corrector step at s
    last: Tensor  # bool, the noise removal

    @property
    def time(self) -> Tensor:
        """Return the time of the canvas, which the model is given."""
        return torch.where(self.corrects, self.s, self.t)


@dataclass(frozen=True)
class PredictorCorrector(SamplerBase[None]):
    """Take steps of a solver, each followed by corrector steps that keep the law of that time.

    Every corrector step is a loop step with a forward pass of its own; `steps` counts the solver's.

    Fields:
        predictor: "tau-leaping" (the paper's), "euler", "tweedie" or "ancestral".
        schedule: alpha(t); without a mask "tweedie" needs alpha(1) > 0.
        t_end: the grid runs from 1 to t_end in `steps` equal steps.
        noise_removal: the rule of the last step, "argmax" (released) or "sample".
        n_correctors: corrector steps per step of the solver; the paper uses 10 on images and 2 on
            music, 0 is the solver alone.
        scale: length of a corrector step over that of the solver's; the paper uses 1.5 and 0.1.
        t_on: correctors act at times s <= t_on; the paper uses 0.1 and 0.9, of the time before the
            solver's step.
        t_off: and at times s >= t_off.

    NFE: steps (1 + n_correctors) + 1 if the window covers the grid; on masks the number of loop
        steps that reveal something.
    """

    predictor: PredictorName = "tau-leaping"
    schedule: Schedule = LOG_LINEAR
    t_end: float = 1e-2
    noise_removal: NoiseRemoval = "argmax"
    n_correctors: int = 1
    scale: float = 1.0
    t_on: float = 1.0
    t_off: float = 0.0

    paper = "Campbell et al. 2022, arXiv:2205.14987"
    nfe = "steps (1 + n_correctors) + 1; on masks those that reveal something"
    clock_use = "times"
    runs_on = ("absorbing", "uniform")
    scored_on = ("uniform",)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_t_end(self.t_end)
        if self.t_end == 0.0:
            raise ValueError("t_end=0.0: must be above 0, where the rates are infinite; try 1e-2.")
        at_least("n_correctors", self.n_correctors, 0, "the paper uses 2 and 10")
        at_least("scale", self.scale, 0.0, "the paper uses 0.1 and 1.5")
        unit_interval("t_on", self.t_on, "1 corrects from the start")
        unit_interval("t_off", self.t_off, "0 corrects to the end")
        if self.t_off > self.t_on:
            raise ValueError(
                f"t_off={self.t_off}, t_on={self.t_on}: time falls from 1 to 0, so t_off must be "
                "at most t_on; try 0 and 0.9."
            )

    @property
    def revises(self) -> bool:
        """Return whether there are corrector steps, which may mask written tokens again."""
        return self.n_correctors > 0

    @property
    def solver(self) -> GridSampler:
        """Return the predictor, on this sampler's grid."""
        return _PREDICTORS[self.predictor](self.schedule, self.t_end, self.noise_removal)

    def corrected(self, steps: Tensor) -> tuple[Tensor, Tensor]:
        """Return the intervals [first, stop) that correctors follow, int64 like `steps`."""
        shrink = steps.double() / (1.0 - self.t_end)
        # s of interval j is 1 - (j + 1) / shrink; the slack absorbs rounding at the bounds.
        first = torch.ceil(shrink * (1.0 - self.t_on) - 1e-9).long() - 1
        stop = torch.floor(shrink * (1.0 - self.t_off) + 1e-9).long()
        first = first.clamp_min(0).minimum(steps)
        return first, stop.minimum(steps).maximum(first)

    def schedule_length(self, steps: int) -> int:
        """Return the solver's steps, the corrector steps and the noise removal."""
        first, stop = self.corrected(torch.tensor(steps))
        return steps + int(stop - first) * self.n_correctors + 1

    def stage(self, clock: Clock) -> Stage:
        """Return the kind of step that each row takes now."""
        k, steps = clock.step, clock.steps
        first, stop = self.corrected(steps)
        inside, group = k - first, 1 + self.n_correctors
        width = (stop - first) * group
        j = torch.where(inside < width, first + inside // group, k - (stop - first) * (group - 1))
        j = torch.where(inside < 0, k, j)
        corrects = (inside >= 0) & (inside < width) & (inside % group > 0)
        t, s = (clock.at(grid_time(j + n, steps, self.t_end), self.t_end) for n in (0, 1))
        return Stage(t, s, corrects, j >= steps)

    def correction(
        self, process: Process, values: Tensor, x: Tensor, t: Tensor, s: Tensor
    ) -> Tensor:
        """Return the law of the canvas after a corrector step at s, [..., V].

        Args:
            process: the noise.
            values: prediction at (x, s) of the kind `process.rates_read`, float64 [..., V].
            x: tokens, int64 [...].
            t: the time at which the interval before it began, float64, broadcast to [...].
            s: the time, like t.
        """
        alpha, slope = self.schedule.alpha(s), self.schedule.rate(s)
        rates = process.rates(values, x, alpha, slope)
        rates = rates + process.noising_rates(x, alpha, slope, values)
        return last_event_law(rates, x, self.scale * (t - s))

    def mask_move(self, stage: Stage) -> MaskMove:
        """Return the probabilities of the solver, or 1 - exp(-h c_s) and 1 - exp(-h beta_s)."""
        h = self.scale * (stage.t - stage.s)
        reveal = -torch.expm1(-h * reverse_rate(self.schedule, stage.s))
        remask = -torch.expm1(-h * masking_rate(self.schedule, stage.s))
        return MaskMove(
            torch.where(stage.corrects, reveal, self.solver.reveal_prob(stage.t, stage.s)),
            remask * stage.corrects,
        )

    def step(
        self, state: None, canvas: Canvas, clock: Clock, predict: Predict, rng: RandomSource
    ) -> tuple[None, Step]:
        """Take a predictor step, a corrector step or the noise removal, each row its own."""
        stage, removal, process = self.stage(clock), self.noise_removal, predict.process
        prediction = predict(canvas.tokens, stage.time)
        if canvas.mask_token_id is not None:
            move = self.mask_move(stage)
            return None, move_masks(canvas, prediction, rng, move, stage.last, removal)
        solver, alpha = self.solver, self.schedule.alpha(stage.time)

        def solve(site: Site) -> Tensor:
            t, s = stage.t[site.row], stage.s[site.row]
            return solver.next_law(process, site.p, site.x, t, s)

        def correct(site: Site) -> Tensor:
            return self.correction(process, site.p, site.x, stage.t[site.row], stage.s[site.row])

        corrects = canvas.editable & stage.corrects.unsqueeze(1)
        solves = canvas.editable & ~(stage.corrects | stage.last).unsqueeze(1)
        reads = solver.reads(process)
        solved = prediction.draw_by(solve, solves, rng, alpha=alpha, reads=reads)
        corrected = prediction.draw_by(
            correct, corrects, rng, alpha=alpha, reads=process.rates_read
        )
        moved = merge_draws(corrects, corrected, solved)
        return None, finish_step(
            canvas, moved, prediction, process, rng, alpha, stage.last, removal
        )

    def choice_logprob(self, canvas: Canvas, clock: Clock, choice: Choice) -> Tensor:
        """Return the law of independent choices; without a mask every position is drawn."""
        if canvas.mask_token_id is None:
            return certain(canvas)
        stage = self.stage(clock)
        move = self.mask_move(stage)
        return log_moves(canvas, choice, move.reveal, move.remask, stage.last)


register("predictor-corrector", PredictorCorrector)

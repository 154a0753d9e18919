"""Hold the base of the theta methods: two forward passes per interval of the grid.

Stage 1 leaps from x to x* over a share theta of the interval.  Stage 2 jumps at rates w that mix
the predictions at x and x*.  On masks the positions are chosen before the tokens: w sums to at most
a known bound, so a position that passes the bound's Bernoulli trial becomes a candidate in stage 1,
only the laws of candidates are kept, and stage 2 accepts with the rest of the probability:

    P(jump) = (1 - exp(-W bound)) * (1 - exp(-W sum w)) / (1 - exp(-W bound))
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from dlm_sampling.ops import Stream
from dlm_sampling.processes.jumps import last_event_law
from dlm_sampling.samplers.base import Solver, reveal
from dlm_sampling.samplers.parts.checks import NoiseRemoval, check_t_end
from dlm_sampling.samplers.parts.choices import certain
from dlm_sampling.samplers.parts.kept_laws import merge_draws, pack, pack_table, unpack
from dlm_sampling.samplers.parts.table_step import draw_clean, write_draws
from dlm_sampling.schedules import (
    LINEAR,
    Schedule,
    grid_time,
    hazard,
    reverse_rate,
    time_after_hazard,
)
from dlm_sampling.types import (
    Canvas,
    Choice,
    Clock,
    Draw,
    Predict,
    Prediction,
    Process,
    RandomSource,
    Step,
)

ClockName = Literal["hazard", "time"]
_LEAST = 1e-12  # of alpha; before that a chain has forgotten everything


class StageInterval(NamedTuple):
    """Hold one interval of the grid with its two stages; float64 [B], or broadcast."""

    t: Tensor  # where it begins
    middle: Tensor  # time of x*
    window: Tensor  # its length W on the clock
    rate_t: Tensor  # rate of unmasking per unit of the clock, at t
    rate_star: Tensor  # and at the middle


class StageState(NamedTuple):
    """Hold the results of stage 1 that stage 2 reads."""

    star: Tensor  # int64 [B, L], x*
    candidates: Tensor  # bool [B, L], positions that may jump in stage 2
    laws: Tensor  # [B, K, V], log p_t at the candidates


@dataclass(frozen=True)
class TwoStage(Solver[StageState]):
    """Take two loop steps per interval, one forward pass each; `steps` counts forward passes.

    The grid has max(1, steps // 2) intervals from 1 to t_end; the noise removal is one more step.

    Fields:
        theta: share of the interval that stage 1 leaps over.
        schedule: alpha(t), the probability that a position is clean at time t.
        t_end: the time at which the grid ends, above 0.
        noise_removal: the last step writes the positions still masked at t_end, by the "argmax" or
            by a "sample".
        clock: "hazard" measures time by H = ln((1 - alpha_t) / (1 - alpha_s)), on which masks are
            revealed at the constant rate 1, and without a mask by sigma = -ln alpha, on which noise
            comes at the constant rate 1; "time" freezes the rate c_t within each stage.
    """

    theta: float = 0.5
    schedule: Schedule = LINEAR
    t_end: float = 1e-3
    noise_removal: NoiseRemoval = "argmax"
    clock: ClockName = "hazard"

    runs_on = ("absorbing", "uniform", "matrix")
    recorded_on = ()
    restarts: ClassVar[bool]
    """Whether stage 2 starts at x again, instead of at x*."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_t_end(self.t_end)
        if self.t_end == 0.0:
            raise ValueError("t_end=0.0: must be above 0, where the rates are infinite; try 1e-3.")
        one = torch.ones(1, dtype=torch.float64)
        self.rates(one, one)

    @property
    def exact(self) -> bool:
        """Return False: whether a position jumps in stage 2 depends on the tokens of stage 1."""
        return False

    @abstractmethod
    def rates(self, rates_t: Tensor, rates_star: Tensor) -> Tensor:
        """Return the rates of stage 2, >= 0, from the rates at x and x*.

        Raises:
            ValueError: theta is out of its range.
        """

    @abstractmethod
    def bound(self, rate_t: Tensor, rate_star: Tensor) -> Tensor:
        """Return the largest possible sum of the rates of stage 2 at a position."""

    def schedule_length(self, steps: int) -> int:
        """Return two steps per interval and the noise removal."""
        return 2 * max(1, steps // 2) + 1

    def time_at(self, k: Tensor, number: Tensor) -> Tensor:
        """Return the time of grid point k of 0..number, float64 like k; the last one beyond it."""
        return grid_time(k, number, self.t_end)

    def interval(self, t: Tensor, s: Tensor) -> StageInterval:
        """Return the interval from t to s on this sampler's clock."""
        if self.clock == "hazard":
            window, one = hazard(self.schedule, t, s), torch.ones_like(t)
            middle = time_after_hazard(self.schedule, t, self.theta * window)
            return StageInterval(t, middle, window, one, one)
        middle = t - self.theta * (t - s)
        rates = reverse_rate(self.schedule, t), reverse_rate(self.schedule, middle)
        return StageInterval(t, middle, t - s, *rates)

    def first_prob(self, interval: StageInterval) -> Tensor:
        """Return the probability that stage 1 reveals a mask, like t."""
        return -torch.expm1(-self.theta * interval.window * interval.rate_t)

    def second_window(self, interval: StageInterval) -> Tensor:
        """Return the length of stage 2 on the clock, like t."""
        return interval.window if self.restarts else (1.0 - self.theta) * interval.window

    def init(self, canvas: Canvas) -> StageState:
        """Return a state without candidates."""
        laws = torch.zeros(
            len(canvas.start), 0, 1, dtype=torch.float32, device=canvas.tokens.device
        )
        return StageState(canvas.tokens, torch.zeros_like(canvas.unknown), laws)

    def step(
        self,
        state: StageState,
        canvas: Canvas,
        clock: Clock,
        predict: Predict,
        rng: RandomSource,
    ) -> tuple[StageState, Step]:
        """Take stage 1, stage 2 or the noise removal, each row its own."""
        t, s, second, removal = self.stage(clock)
        if canvas.mask_token_id is None:
            interval = self.interval_of_noise(t, s)
            return self.move(state, canvas, interval, second, removal, predict, rng)
        interval = self.interval(t, s)
        leap, candidates = self.choose(canvas, interval, rng, ~second & ~removal)
        prediction = predict(
            torch.where(second.unsqueeze(1), state.star, canvas.tokens),
            torch.where(second, interval.middle, interval.t),
        )
        where = leap | (canvas.eligible & removal.unsqueeze(1))
        greedy = removal if self.noise_removal == "argmax" else None
        draw = prediction.draw(where, rng, greedy=greedy)
        star = torch.where(where, draw.token, canvas.tokens)
        wrote = where & (removal.unsqueeze(1) | (not self.restarts))
        jumping = state.candidates & canvas.eligible & second.unsqueeze(1)
        if bool(jumping.any()):
            accepted, jumps = self.jump(state, jumping, canvas, interval, prediction, rng)
            wrote, draw = wrote | accepted, merge_draws(accepted, jumps, draw)
        following = StageState(star, candidates, pack(prediction, candidates))
        return following, reveal(canvas, wrote, draw)

    def stage(self, clock: Clock) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the ends t, s of each row's interval, and whether it is in stage 2 or done."""
        number = (clock.steps // 2).clamp_min(1)
        k, removal = clock.step // 2, clock.step >= 2 * number
        t, s = (clock.at(self.time_at(i, number), self.t_end) for i in (k, k + 1))
        return t, s, (clock.step % 2 == 1) & ~removal, removal

    def move(
        self,
        state: StageState,
        canvas: Canvas,
        interval: StageInterval,
        second: Tensor,
        removal: Tensor,
        predict: Predict,
        rng: RandomSource,
    ) -> tuple[StageState, Step]:
        """Take the same step under noise without a mask: every position jumps by its table.

        The rates of stage 1 are kept for stage 2: [B, K, V] in float64, K positions of the block.
        """
        process, rows = predict.process, second.unsqueeze(1)
        t = torch.where(second, interval.middle, interval.t)
        x = torch.where(rows, state.star, canvas.tokens)
        prediction, alpha = predict(x, t), self.schedule.alpha(t)
        ending = canvas.editable & removal.unsqueeze(1)
        moving = canvas.editable & ~ending
        values = prediction.table(moving, alpha=alpha, reads=process.rates_read)
        row, at_end = moving.nonzero(as_tuple=True)[0], rows.expand_as(moving)[moving]
        rates = self.clock_rates(process, values, x[moving], t[row])
        first, again = moving & ~rows, moving & rows
        begin = canvas.tokens if self.restarts else x
        window = torch.where(second, self.second_window(interval), self.theta * interval.window)
        mixed = rates.clone()
        if bool(again.any()):
            mixed[at_end] = self.rates(unpack(state.laws, state.candidates, again), rates[at_end])
        start = torch.where(again, begin, canvas.tokens)[moving]
        draw = prediction.draw_table(last_event_law(mixed, start, window[row]), moving, rng)
        star = torch.where(first, draw.token, canvas.tokens)
        if bool(removal.any()):
            final = draw_clean(process, prediction, ending, rng, alpha, self.noise_removal)
            draw = merge_draws(ending, final, draw)
        kept = moving & (rows | (not self.restarts)) | ending
        following = StageState(star, first, pack_table(rates[~at_end], first))
        return following, write_draws(canvas, draw, kept, removal)

    def choice_logprob(self, canvas: Canvas, clock: Clock, choice: Choice) -> Tensor | None:
        """Return 0 without a mask, where every position is drawn; None on masks."""
        return certain(canvas) if canvas.mask_token_id is None else None

    def interval_of_noise(self, t: Tensor, s: Tensor) -> StageInterval:
        """Return the interval from t to s without a mask; its rates are in the table."""
        one = torch.ones_like(t)
        if self.clock == "time":
            return StageInterval(t, t - self.theta * (t - s), t - s, one, one)
        alpha_t, alpha_s = self.schedule.alpha(t).clamp_min(_LEAST), self.schedule.alpha(s)
        window = torch.log(alpha_s / alpha_t)
        middle = self.schedule.time_of(alpha_t * torch.exp(self.theta * window))
        return StageInterval(t, middle, window, one, one)

    def clock_rates(self, process: Process, values: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Return the reverse rates per unit of this sampler's clock, [R, V]; t float64 [R]."""
        alpha, slope = self.schedule.alpha(t).clamp_min(_LEAST), self.schedule.rate(t)
        return process.rates(values, x, alpha, alpha if self.clock == "hazard" else slope)

    def choose(
        self, canvas: Canvas, interval: StageInterval, rng: RandomSource, rows: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Choose where stage 1 leaps and where stage 2 may jump, bool [B, L]; rows bool [B]."""
        open_ = canvas.eligible & rows.unsqueeze(1)
        u = rng.uniform(Stream.COMMIT, canvas.tokens)
        leap = open_ & (u < self.first_prob(interval).unsqueeze(1))
        v = rng.uniform(Stream.TIME, canvas.tokens)
        passed = v < self.bound_prob(interval).unsqueeze(1)
        return leap, open_ & passed & (~leap | self.restarts)

    def bound_prob(self, interval: StageInterval) -> Tensor:
        """Return 1 - exp(-W bound), like t."""
        bound = self.bound(interval.rate_t, interval.rate_star)
        return -torch.expm1(-self.second_window(interval) * bound)

    def jump(
        self,
        state: StageState,
        where: Tensor,
        canvas: Canvas,
        interval: StageInterval,
        prediction: Prediction,
        rng: RandomSource,
    ) -> tuple[Tensor, Draw]:
        """Accept candidates and draw their tokens from the mixed rates."""
        row = where.nonzero(as_tuple=True)[0]
        rates = self.mixed(state, where, canvas, interval, prediction)
        total = rates.sum(1).double()
        chance = -torch.expm1(-self.second_window(interval)[row] * total)
        u = rng.uniform(Stream.COMMIT, canvas.tokens)[where]
        hit = u * self.bound_prob(interval)[row] < chance
        accepted = where.clone()
        accepted[where] = hit
        return accepted, prediction.draw_from(rates[hit].log(), accepted, rng, sub=1)

    def mixed(
        self,
        state: StageState,
        where: Tensor,
        canvas: Canvas,
        interval: StageInterval,
        prediction: Prediction,
    ) -> Tensor:
        """Return the rates of stage 2 at `where`, [R, V]; a part is 0 where x* holds a token."""
        row = where.nonzero(as_tuple=True)[0]
        log_t = unpack(state.laws, state.candidates, where)
        rates_t = log_t.exp() * interval.rate_t[row].to(log_t.dtype).unsqueeze(1)
        rates_star = torch.zeros_like(rates_t)
        masked = where & (state.star == canvas.mask)
        if bool(masked.any()):
            rate = interval.rate_star[masked.nonzero(as_tuple=True)[0]].to(log_t.dtype)
            rates_star[masked[where]] = prediction.log_probs(masked).exp() * rate.unsqueeze(1)
        return self.rates(rates_t, rates_star)

"""Redraw one position per event, each row with its own clock.

    R(x -> y) = c_t rho_i p_i(y),  y != x;   H(t) = -ln(1 - alpha_t) is a clock on which c = 1

    frozen   dH ~ Exp(sum rho),  i ~ rho / sum rho,  y ~ p_i;  rho and p as at the begin of the wait
    thinned  dH ~ Exp(n),  i uniform among the n positions, kept with probability rho_i at the new
             time,  y ~ p_i there

Thinning is exact for any rho that changes with time, since rho <= 1 bounds the rates; the frozen
wait is exact for planners that are not given the time, such as the released ones.  A row whose
clock has passed t_end draws every position from its posterior, P(y) = rho_i p_i(y), y != x.  Liu et
al. 2024, "Think While You Generate: Discrete Diffusion with Planned Denoising", arXiv:2410.06264,
Gillespie algorithm; thinning: Lewis and Shedler 1979.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from dlm_sampling.ops import Stream, stochastic_positions
from dlm_sampling.samplers.parts.checks import at_least
from dlm_sampling.samplers.parts.planning import Plan, PlanningSampler
from dlm_sampling.samplers.parts.table_step import write_draws
from dlm_sampling.samplers.registry import register
from dlm_sampling.schedules import time_after_hazard
from dlm_sampling.types import Canvas, Clock, Predict, RandomSource, Step

Wait = Literal["frozen", "thinned"]


class GillespieState(NamedTuple):
    """Hold the clock of every row."""

    t: Tensor  # float64 [B]


class _Event(NamedTuple):
    """Hold the next event of every row: its plan, its position and its time."""

    plan: Plan
    where: Tensor  # bool [B, L], positions to be redrawn
    t: Tensor  # float64 [B], the clock afterwards
    over: Tensor  # bool [B], rows whose clock has run out


@dataclass(frozen=True)
class PlannedGillespie(PlanningSampler[GillespieState]):
    """Redraw one position at a time, chosen in proportion to how likely its token is noise.

    Fields:
        planner, schedule: see `PlanningSampler`.
        t_end: the clock's end, above 0; two positions of n are both noise there with a probability
            of about (n (1 - alpha(t_end)))^2 / 2, which the final draw from the posteriors ignores.
        wait: "frozen" holds rho between events, one plan for each; "thinned" is exact for models
            that are given the time, at a plan for each of about n H(t_end) proposals, most of them
            refused.
        budget: plans per planned step after which the clock stops, so that a planner
            that always finds noise comes to an end; a consistent one takes about a plan per token.

    NFE: a plan per event and one at the end; with a planner one more of the denoiser for each that
        redraws something.
    """

    t_end: float = 1e-3
    wait: Wait = "frozen"
    budget: int = 16

    nfe = "events + 1, about the number of tokens; with a planner at most twice that"
    clock_use = "begin"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 < self.t_end < 1.0:
            raise ValueError(f"t_end={self.t_end}: must be in (0, 1); try 1e-3.")
        at_least("budget", self.budget, 1, "it is a number of plans per step, try 16")

    def schedule_length(self, steps: int) -> int:
        """Return the largest number of plans; a row whose clock has run out ends earlier."""
        return self.budget * steps

    def init(self, canvas: Canvas) -> GillespieState:
        """Return time 1; a clock starts when its row enters a block."""
        return GillespieState(torch.ones_like(canvas.start, dtype=torch.float64))

    def step(
        self,
        state: GillespieState,
        canvas: Canvas,
        clock: Clock,
        predict: Predict,
        rng: RandomSource,
    ) -> tuple[GillespieState, Step]:
        """Take one event, or the final draw."""
        now = torch.where(clock.step == 0, clock.begin, state.t)
        spent = clock.step >= self.budget * clock.steps - 1
        event = _WAITS[self.wait](self, canvas, predict, rng, now, spent)
        draw = self.draw(canvas, predict, event.plan, event.where, rng)
        return GillespieState(event.t), write_draws(canvas, draw, event.where, event.over)

    def after(self, now: Tensor, total: Tensor, rng: RandomSource) -> Tensor:
        """Return the time of the next event at rate `total` on the clock H, >= t_end; [B]."""
        hold = -rng.uniform(Stream.TIME, now).log() / total
        return time_after_hazard(self.schedule, now, hold).clamp_min(self.t_end)


def _one(score: Tensor, canvas: Canvas, rng: RandomSource) -> Tensor:
    """Draw one eligible position from softmax(score)."""
    return stochastic_positions(score, canvas.eligible, torch.ones_like(canvas.start), rng)


def _frozen(
    sampler: PlannedGillespie,
    canvas: Canvas,
    predict: Predict,
    rng: RandomSource,
    now: Tensor,
    spent: Tensor,
) -> _Event:
    plan, over = sampler.plan(canvas, predict, now), spent | (now <= sampler.t_end)
    then = sampler.after(now, plan.noise.sum(1), rng)
    event = _one(plan.noise.log(), canvas, rng) & (then > sampler.t_end).unsqueeze(1)
    last = canvas.eligible & (rng.uniform(Stream.COMMIT, canvas.tokens) < plan.noise)
    return _Event(plan, torch.where(over.unsqueeze(1), last, event), then, over)


def _thinned(
    sampler: PlannedGillespie,
    canvas: Canvas,
    predict: Predict,
    rng: RandomSource,
    now: Tensor,
    spent: Tensor,
) -> _Event:
    then = sampler.after(now, canvas.left.double(), rng)
    then = torch.where(spent, now, then)
    plan, over = sampler.plan(canvas, predict, then), spent | (then <= sampler.t_end)
    proposed = _one(torch.zeros_like(plan.noise), canvas, rng) | over.unsqueeze(1)
    kept = rng.uniform(Stream.COMMIT, canvas.tokens) < plan.noise
    return _Event(plan, canvas.eligible & proposed & kept, then, over)


_WAITS: dict[
    str, Callable[[PlannedGillespie, Canvas, Predict, RandomSource, Tensor, Tensor], _Event]
] = {"frozen": _frozen, "thinned": _thinned}


register("planned-gillespie", PlannedGillespie)

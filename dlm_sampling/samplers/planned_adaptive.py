"""Redraw the share of noise that is due, without a clock: the tokens give the noise level.

    level  tau = 1 - sum rho / n,   the denoiser is asked at the time of that level
    step   the ceil(sum rho / steps left) positions i ~ rho without replacement,  y ~ p_i
    end    at sum rho < tol or when the steps are used up: y ~ p_i with probability rho_i

With as many steps as tokens one position changes at a time: the Gillespie algorithm with the time
read from the plan.  A step that was wasted on a token is made up for, since noise stays noise until
the planner says otherwise.  Not the reverse process, so its law has a bias.  Liu et al. 2024,
"Think While You Generate: Discrete Diffusion with Planned Denoising", arXiv:2410.06264,
time-adaptive Gillespie algorithm; the number of positions follows its ImageNet code.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from dlm_sampling.ops import Stream, stochastic_positions
from dlm_sampling.samplers.parts.checks import at_least
from dlm_sampling.samplers.parts.planning import (
    LevelState,
    PlanningSampler,
    pure_noise,
    restart_level,
)
from dlm_sampling.samplers.parts.table_step import write_draws
from dlm_sampling.samplers.registry import register
from dlm_sampling.types import Canvas, Clock, Predict, RandomSource, Step


@dataclass(frozen=True)
class PlannedAdaptive(PlanningSampler[LevelState]):
    """Redraw the share of the noise that is due, until the planner expects none.

    Fields:
        planner: see `PlanningSampler`; with None the level is the most likely one, as found by
            `processes.planned.level_of`.
        schedule: see `PlanningSampler`; it turns levels into the times of the denoiser.
        tol: a row ends when it is expected to hold fewer noisy tokens than this.

    NFE: at most steps; with a planner at most two for each.
    """

    tol: float = 0.1

    nfe = "at most steps; with a planner at most 2 steps"

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("tol", self.tol, 0.0, "0.1 tokens is sensible, 0 uses up the steps")

    def init(self, canvas: Canvas) -> LevelState:
        """Return the state of pure noise."""
        return pure_noise(canvas)

    def step(
        self, state: LevelState, canvas: Canvas, clock: Clock, predict: Predict, rng: RandomSource
    ) -> tuple[LevelState, Step]:
        """Return one share of the noise, or the final draw."""
        state = restart_level(state, clock)
        plan = self.plan_without_clock(canvas, predict, state)
        total = plan.noise.sum(1)
        over = clock.last | (total < self.tol)
        due = (total / (clock.steps - clock.step)).ceil().long()
        some = stochastic_positions(plan.noise.log(), canvas.eligible, due, rng)
        rest = canvas.eligible & (rng.uniform(Stream.COMMIT, canvas.tokens) < plan.noise)
        where = torch.where(over.unsqueeze(1), rest, some)
        draw = self.draw(canvas, predict, plan, where, rng)
        return LevelState(plan.level, state.drawn | where), write_draws(canvas, draw, where, over)


register("planned-adaptive", PlannedAdaptive)

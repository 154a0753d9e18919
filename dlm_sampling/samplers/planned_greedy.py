"""Redraw one position per step, then all that are still noisy: DDPD as released for text.

    i ~ softmax(planner(x) / T),   y ~ p_i,   `steps` times;  then the positions that the planner
    still calls noise are written together

Not the reverse process: softmax of log-odds prefers certain noise far more than rho / sum rho does,
and a position may be redrawn although nothing is noise.  Liu et al. 2024, "Think While You
Generate: Discrete Diffusion with Planned Denoising", arXiv:2410.06264, released code
github.com/liusulin/DDPD.

Three faults of the released loops are not reproduced: the final pass uses a plan and logits from
before the last update (here both are made again), its argmax may be the mask id (here never), and
`.squeeze()` fails on a batch of one.  The OpenWebText code makes its final plan at the last noise
level, although the planner was trained at level 0; here it runs as it was trained.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dlm_sampling.ops import Stream, stochastic_positions
from dlm_sampling.samplers.parts.checks import above_zero, unit_interval
from dlm_sampling.samplers.parts.planning import (
    LevelState,
    PlanningSampler,
    pure_noise,
    restart_level,
)
from dlm_sampling.samplers.parts.table_step import write_draws
from dlm_sampling.samplers.registry import register
from dlm_sampling.types import Canvas, Clock, Predict, RandomSource, Step

Selection = Literal["softmax", "sigmoid"]
Ending = Literal["argmax", "resample"]
_EPS = 1e-12


def _log_odds(noise: Tensor) -> Tensor:
    return noise.logit(eps=_EPS)


_SCORES: dict[str, Callable[[Tensor], Tensor]] = {"softmax": _log_odds, "sigmoid": torch.log}


@dataclass(frozen=True)
class PlannedGreedy(PlanningSampler[LevelState]):
    """Redraw one position per step, by a softmax of how noisy it looks; then the noisy rest.

    Fields:
        planner: see `PlanningSampler`.
        schedule: see `PlanningSampler`; it turns the level 1 - sum rho / n into a time.
        selection: a position with the weight exp(log-odds / T), the "softmax" of the released
            code, or rho^(1 / T), the "sigmoid".
        planner_temperature: T; the tokens have the temperature of the run.  The released loops use
            one for both.
        ending: "argmax" of the tokens whose rho is above `threshold` (text8), or "resample" each
            position with probability rho (OpenWebText).
        threshold: rho above which "argmax" rewrites a token.

    NFE: steps + 1; with a planner at most twice that.
    """

    selection: Selection = "softmax"
    planner_temperature: float = 1.0
    ending: Ending = "argmax"
    threshold: float = 0.05

    nfe = "steps + 1; with a planner at most twice that"

    def __post_init__(self) -> None:
        super().__post_init__()
        above_zero("planner_temperature", self.planner_temperature, "the released value is 1")
        unit_interval("threshold", self.threshold, "the released value is 0.05")

    def schedule_length(self, steps: int) -> int:
        """Return the number of updates and the final pass."""
        return steps + 1

    def init(self, canvas: Canvas) -> LevelState:
        """Return the state of pure noise."""
        return pure_noise(canvas)

    def step(
        self, state: LevelState, canvas: Canvas, clock: Clock, predict: Predict, rng: RandomSource
    ) -> tuple[LevelState, Step]:
        """Take one update, or the final pass."""
        state = restart_level(state, clock)
        plan = self.plan_without_clock(canvas, predict, state)
        over = clock.step >= clock.steps
        weight = _SCORES[self.selection](plan.noise) / self.planner_temperature
        one = stochastic_positions(weight, canvas.eligible, torch.ones_like(canvas.start), rng)
        bar = torch.full_like(plan.noise, self.threshold)
        if self.ending == "resample":
            bar = rng.uniform(Stream.COMMIT, canvas.tokens)
        where = torch.where(over.unsqueeze(1), canvas.eligible & (plan.noise > bar), one)
        greedy = over if self.ending == "argmax" else None
        draw = self.draw(canvas, predict, plan, where, rng, greedy=greedy)
        return LevelState(plan.level, state.drawn | where), write_draws(canvas, draw, where, over)


register("planned-greedy", PlannedGreedy)

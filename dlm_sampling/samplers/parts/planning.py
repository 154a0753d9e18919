"""Hold the base of planned denoising: it asks which positions are noise, then the denoiser.

    rho_i = P(position i is noise | x)     a planner network, or a uniform denoiser's own
                                           b / (alpha loo(x_i) + b),  b = (1 - alpha) / S
    p_i(y) = P(x0_i = y | x, i noise)      a uniform denoiser at x, or a masked one at x with masks
                                           at z ~ Bernoulli(rho), the chosen positions among them

The canvas holds tokens in both cases and its noise is uniform: under a masked denoiser that is the
noise of the planner, over all ids but the mask.  With masks p is exact only if the positions are
noise independently of each other given x.  Liu et al. 2024, "Think While You Generate",
arXiv:2410.06264 (UniD and MaskD).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from dlm_sampling.ops import Stream
from dlm_sampling.processes.planned import (
    UniformTokens,
    clean_probability,
    level_of,
    noise_from_clean,
)
from dlm_sampling.samplers.base import SamplerBase
from dlm_sampling.schedules import LOG_LINEAR, Schedule
from dlm_sampling.types import (
    Canvas,
    Clock,
    Draw,
    Planner,
    Predict,
    Prediction,
    Process,
    RandomSource,
    Site,
)

S = TypeVar("S")
Rule = Callable[[Site], Tensor]


HIGHEST_LEVEL = 1.0 - 1e-6
"""Bound on an inferred level: at 1 a posterior does not determine the leave-one-out law."""


class Plan(NamedTuple):
    """Hold the probability that each position is noise, and the noise level for the denoiser."""

    noise: Tensor  # float64 [B, L], rho; 0 at positions that are not to be written
    level: Tensor  # float64 [B], probability of being clean: the clock's, or inferred
    alpha: Tensor  # float64 [B], level that the denoiser is asked at
    prediction: Prediction | None  # what rho was read from, if that was the denoiser


class LevelState(NamedTuple):
    """Hold the progress of each row when no clock gives the level."""

    level: Tensor  # float64 [B], what the last plan said
    drawn: Tensor  # bool [B, L], positions that have been drawn since the canvas was pure noise


def pure_noise(canvas: Canvas) -> LevelState:
    """Return the state of pure noise."""
    level = torch.zeros_like(canvas.start, dtype=torch.float64)
    return LevelState(level, torch.zeros_like(canvas.editable))


def restart_level(state: LevelState, clock: Clock) -> LevelState:
    """Return the state with rows that enter a block at pure noise."""
    fresh = clock.step == 0
    return LevelState(state.level.masked_fill(fresh, 0.0), state.drawn & ~fresh.unsqueeze(1))


@dataclass(frozen=True)
class PlanningSampler(SamplerBase[S]):
    """Serve as the base of the planned samplers.

    Fields:
        planner: a planner (function, module or `DDPDPlanner`) from token ids to the logit that
            each is noise, or the folder or hub name of one; None plans with a uniform denoiser
            itself.  A planner whose signature has `t` gets the time; without a clock that is the
            time of the last level, a worse guide than none: the released planners see no time.
            With a planner `replay` scores the tokens at the positions that it chose; without one
            the positions are the denoiser's choice, and a run is refused.
        schedule: alpha(t) of the clock, and of the times that the denoiser is given.  At alpha = 0
            scores carry no information, so the default begins a little above.
    """

    planner: Planner | str | Path | None = None
    schedule: Schedule = LOG_LINEAR

    unscored = (
        "which positions are drawn again follows from what the model says; a planner of its own "
        "(planner=) would choose the same ones"
    )
    paper = "Liu et al. 2024, arXiv:2410.06264"
    runs_on = ("uniform",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.planner is not None:  # positions follow from it, and from the seed
            object.__setattr__(self, "unscored", "")
            object.__setattr__(self, "scored_on", ("absorbing", "uniform"))

    @property
    def exact(self) -> bool:
        """Return False: the plan reads the tokens drawn so far."""
        return False

    def canvas_process(self, process: Process) -> Process | None:
        """Return uniform noise, without the mask id if a planner runs beside a masked denoiser.

        Raises:
            ValueError: a masked denoiser without a planner.
        """
        if process.name != "absorbing" or process.mask_token_id is None:
            return super().canvas_process(process)
        if self.planner is None:
            raise ValueError(
                f"planner=None: {type(self).__name__} needs a planner beside a masked denoiser, "
                "whose canvas it fills with tokens. Pass planner=, or take sampler='planned-self'."
            )
        return UniformTokens(process.mask_token_id)

    def plan(self, canvas: Canvas, predict: Predict, t: Tensor) -> Plan:
        """Ask which positions are noise at time t, float64 [B] (NFE 1)."""
        alpha = self.schedule.alpha(t)
        asked = self._ask(canvas, predict, t)
        if asked is not None:
            return Plan(asked, alpha, alpha, None)
        prediction, clean = self._own(canvas, predict, t)
        noise = noise_from_clean(clean, alpha.unsqueeze(1), predict.vocab_size)
        return Plan(noise.masked_fill(~canvas.eligible, 0.0), alpha, alpha, prediction)

    def plan_without_clock(self, canvas: Canvas, predict: Predict, state: LevelState) -> Plan:
        """Ask which positions are noise when no clock gives the level (NFE 1).

        A planner gives the new level, 1 - sum rho / n, at once.  A denoiser is asked at the last
        level, and the new one comes from its answer by `processes.planned.level_of`; it is at most
        the share of positions that have been drawn, since a network that is given a level near 1
        tends to confirm it.
        """
        level, count = state.level, canvas.left.clamp_min(1)
        # A planner that sees the time calls everything noise at level 0, and would never leave it.
        asked = self._ask(
            canvas, predict, self.schedule.time_of(level.maximum(1.0 / (count + 2.0)))
        )
        if asked is not None:
            found = (1.0 - asked.sum(1) / count).clamp(max=HIGHEST_LEVEL)
            return Plan(asked, found, self._reached(found), None)
        prediction, clean = self._own(canvas, predict, self.schedule.time_of(level))
        most = (state.drawn & canvas.eligible).sum(1).double() / count
        found = level_of(clean, canvas.eligible, level, predict.vocab_size)
        found = found.minimum(most).clamp(max=HIGHEST_LEVEL)
        noise = noise_from_clean(clean, found.unsqueeze(1), predict.vocab_size)
        noise = noise.masked_fill(~canvas.eligible, 0.0)
        return Plan(noise, found, self._reached(level), prediction)

    def draw(
        self,
        canvas: Canvas,
        predict: Predict,
        plan: Plan,
        where: Tensor,
        rng: RandomSource,
        *,
        rule: Rule | None = None,
        greedy: Tensor | None = None,
    ) -> Draw:
        """Draw from p, or from the law that `rule` makes of it, at `where` (bool [B, L], eligible).

        NFE 1 for rows with such a position, 0 if the plan has read the denoiser already.  Under a
        masked denoiser the sites of the rule hold masks.
        """
        prediction, alpha = plan.prediction, plan.alpha
        if prediction is None:
            x, alpha = _SHOWN[predict.process.name](canvas, predict.process, plan, where, rng)
            prediction = predict(x, self.schedule.time_of(alpha))
        return prediction.draw_by(
            _as_it_is if rule is None else rule,
            where,
            rng,
            alpha=alpha,
            reads=predict.process.reads,
            greedy=greedy,
        )

    def _reached(self, level: Tensor) -> Tensor:
        """Return the level of the time that stands for `level`; a schedule may begin above 0."""
        return self.schedule.alpha(self.schedule.time_of(level))

    def _ask(self, canvas: Canvas, predict: Predict, t: Tensor) -> Tensor | None:
        """Return the planner's rho, [B, L], or None if there is no planner."""
        if self.planner is None:
            return None
        logits = predict.plan(self.planner, canvas.tokens, t, canvas.eligible.any(1))
        return logits.sigmoid().masked_fill(~canvas.eligible, 0.0)

    def _own(self, canvas: Canvas, predict: Predict, t: Tensor) -> tuple[Prediction, Tensor]:
        """Return a uniform denoiser's prediction at time t, and loo(x) read from it, [B, L]."""
        prediction = predict(canvas.tokens, t)
        prob = prediction.log_prob_of(canvas.tokens, canvas.eligible).double().exp()
        alpha = self.schedule.alpha(t).unsqueeze(1)
        return prediction, clean_probability(prob, alpha, predict.vocab_size, prediction.kind)


def _as_it_is(site: Site) -> Tensor:
    return site.p


def _tokens(
    canvas: Canvas, process: Process, plan: Plan, where: Tensor, rng: RandomSource
) -> tuple[Tensor, Tensor]:
    """Return the canvas as it is."""
    return canvas.tokens, plan.alpha


def _masks(
    canvas: Canvas, process: Process, plan: Plan, where: Tensor, rng: RandomSource
) -> tuple[Tensor, Tensor]:
    """Return the canvas with masks in place of noise, and the level that has so many masks."""
    assert process.mask_token_id is not None
    u = rng.uniform(Stream.REMASK, canvas.tokens)
    hidden = canvas.eligible & (where | (u < plan.noise))
    ahead = canvas.unknown & ~canvas.editable  # later blocks, which nothing has been drawn for yet
    count = canvas.left.clamp_min(1)
    x = canvas.tokens.masked_fill(hidden | ahead, process.mask_token_id)
    return x, 1.0 - hidden.sum(1).double() / count


_SHOWN = {"uniform": _tokens, "absorbing": _masks}

"""Simulate the reverse jump process without discretisation error: uniformization.

    candidate events of every position at the rate B(t), a bound on its rate of leaving;
    at an event at time u:  x_i <- y with probability R_u(x_i, y) / B(u),  else x_i stays

On masks B(t) = c_t is the rate itself and every candidate is a jump; under uniform noise over S
symbols B(t) = c_t + beta_t (S - 1) / S.  The next candidate of n positions comes when the integral
of n B reaches a unit exponential, so B need not be constant, and no interval is cut.  Van Dijk
1992; for discrete diffusion: Chen and Ying 2024, "Convergence Analysis of Discrete Diffusion Model:
Exact Implementation through Uniformization", arXiv:2402.08095.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor

from dlm_sampling.ops import Stream, top_k_positions
from dlm_sampling.processes.tables import with_stay
from dlm_sampling.samplers.parts.event_clock import EventSampler, EventState, Moment
from dlm_sampling.samplers.registry import register
from dlm_sampling.types import (
    Canvas,
    Clock,
    Predict,
    Process,
    RandomSource,
    Site,
    Step,
)

_HALVINGS = 60  # of the level interval; what is left is below the spacing of float64


class Bounded(Process, Protocol):
    """Describe a process whose rates of leaving a token have a known bound."""

    def exit_bound(self, alpha: Tensor, slope: Tensor, size: int, /) -> Tensor:
        """Return the bound at a level; slope is -alpha'(t)."""
        ...

    def exit_integral(self, alpha_t: Tensor, alpha_s: Tensor, size: int, /) -> Tensor:
        """Return the integral of the bound from t to s."""
        ...


@dataclass(frozen=True)
class Uniformization(EventSampler):
    """Draw exactly from the reverse process of the denoiser, one candidate event per forward pass.

    The law of the canvas at t_end is that of the reverse process itself; there every position that
    is still noisy is written from its posterior.  `steps` has no effect.  Ratios of a network that
    break the bound count as the bound.

    Fields:
        schedule: see `EventSampler`; without a mask the bound is infinite at alpha = 0.
        t_end, noise_removal: see `EventSampler`.

    NFE: one per candidate event and one for the last step.  On masks that is about the number of
        positions L, else on average L (ln((1 - alpha(1)) / (1 - alpha(t_end))) + (S - 1) / S
        ln(alpha(t_end) / alpha(1))), about 18 L with the defaults.
    """

    scored_on = ("uniform",)
    paper = "Chen and Ying 2024, arXiv:2402.08095"
    nfe = "one per candidate event: about one per position on masks, 18 under uniform noise"
    clock_use = "begin"

    def canvas_process(self, process: Process) -> Process | None:
        """Return `process`.

        Raises:
            ValueError: t_end is 0 and there is no mask.
        """
        if self.t_end == 0.0 and process.mask_token_id is None:
            raise ValueError(
                "t_end=0.0: must be above 0 without a mask, where candidate events never end; try "
                "1e-5."
            )
        return super().canvas_process(process)

    def step(
        self, state: EventState, canvas: Canvas, clock: Clock, predict: Predict, rng: RandomSource
    ) -> tuple[EventState, Step]:
        """Take the next candidate event of every row, or its last step."""
        process = cast(Bounded, predict.process)
        t = torch.where(clock.step == 0, clock.begin, state.t)
        size = predict.vocab_size
        u, ending = self.next_event(process, t, canvas.left, size, rng)
        prediction, alpha = predict(canvas.tokens, u), self.schedule.alpha(u)
        race = rng.uniform(Stream.POSITION, canvas.tokens)
        where = top_k_positions(race, canvas.eligible, (~ending).long())

        def rule(site: Site) -> Tensor:
            return self.next_law(process, site.p, site.x, u[site.row])

        masks = canvas.mask_token_id is not None
        draw = prediction.draw_by(
            rule, where, rng, alpha=alpha, reads=process.rates_read, own_law=masks
        )
        return self.outcome(canvas, where, draw, u, Moment(process, prediction, alpha, ending), rng)

    def next_event(
        self, process: Bounded, t: Tensor, positions: Tensor, size: int, rng: RandomSource
    ) -> tuple[Tensor, Tensor]:
        """Return the time of the next candidate, float64 [B], or t_end, and whether there is one.

        Args:
            process: the noise.
            t: current times, float64 [B].
            positions: noisy positions of each row, int64 [B].
            size: S.
            rng: random numbers of the step.
        """
        wait = -torch.log(rng.uniform(Stream.TIME, t)) / positions.clamp_min(1)
        alpha_t = self.schedule.alpha(t)
        high = self.schedule.alpha(torch.full_like(t, self.t_end))
        ending = process.exit_integral(alpha_t, high, size) <= wait
        low = alpha_t
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            early = process.exit_integral(alpha_t, middle, size) < wait
            low, high = torch.where(early, middle, low), torch.where(early, high, middle)
        return torch.where(ending, self.t_end, self.schedule.time_of(high)), ending

    def next_law(self, process: Bounded, values: Tensor, x: Tensor, u: Tensor) -> Tensor:
        """Return the law after a candidate event at u, [..., V]: R_u(x, y) / B(u), else it stays.

        values is the prediction of kind `process.rates_read`, [..., V]; u broadcast to [...].
        """
        alpha, slope = self.schedule.alpha(u), self.schedule.rate(u)
        rates = process.rates(values, x, alpha, slope)
        bound = process.exit_bound(alpha, slope, values.shape[-1]).unsqueeze(-1)
        jump = rates / bound
        # A network's ratios may break the bound; rounding may, on masks, where it is attained.
        return with_stay(jump / jump.sum(-1, keepdim=True).clamp_min(1.0), x)


register("uniformization", Uniformization)

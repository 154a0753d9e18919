"""Redraw positions in proportion to how likely they are noise, on a time grid.

    R(x -> y) = c_t rho_i p_i(y),  y != x,    c = -alpha' / (1 - alpha)
    integrated   P(y) = J rho_i p_i(y),   J = (alpha_s - alpha_t) / (1 - alpha_t)
    last         P(y) = (1 - exp(-h Lambda)) R(y) / Lambda,   h = t - s, Lambda = sum R

and in the last step every position has its posterior, P(y) = rho_i p_i(y), y != x.  rho and
p come from `parts.planning`.  Liu et al. 2024, "Think While You Generate: Discrete Diffusion with
Planned Denoising", arXiv:2410.06264; the integrated jump is the flow's, Gat et al. 2024,
arXiv:2407.15595.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from dlm_sampling.ops import Stream
from dlm_sampling.processes.jumps import last_event_law, mixture_law
from dlm_sampling.processes.planned import planned_rates
from dlm_sampling.processes.tables import off_diagonal, with_stay
from dlm_sampling.samplers.parts.planning import PlanningSampler
from dlm_sampling.samplers.parts.table_step import write_draws
from dlm_sampling.samplers.registry import register
from dlm_sampling.schedules import grid_time
from dlm_sampling.types import Canvas, Clock, Predict, RandomSource, Site, Step

Jump = Literal["integrated", "last"]


class _Jump(NamedTuple):
    """Hold a jump as a probability and a law: P(y) = coin law(y), y != x."""

    coin: Callable[[Tensor, Tensor], Tensor]
    """(rho, the step's amount of the clock) -> probability that a token is drawn."""
    law: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    """(p, rho, x, amount) -> law of that token, [..., V]."""


def _share(noise: Tensor, jump: Tensor) -> Tensor:
    return jump * noise


def _whole(p: Tensor, noise: Tensor, x: Tensor, jump: Tensor) -> Tensor:
    return p


def _some_event(noise: Tensor, mean: Tensor) -> Tensor:
    """At least one event at the rate that includes draws of the current token."""
    return -torch.expm1(-mean * noise)


def _last_event(p: Tensor, noise: Tensor, x: Tensor, mean: Tensor) -> Tensor:
    """Return the last event among those that leave x; the current token if there is none."""
    law = last_event_law(planned_rates(p, noise, x, torch.ones_like(noise)), x, mean)
    coin = _some_event(noise, mean).unsqueeze(-1)
    return with_stay(torch.where(coin > 0, off_diagonal(law, x) / coin, 0.0), x)


_JUMPS: dict[str, _Jump] = {
    "integrated": _Jump(_share, _whole),
    "last": _Jump(_some_event, _last_event),
}


@dataclass(frozen=True)
class Planned(PlanningSampler[None]):
    """Redraw each position with a probability in proportion to that of its token being noise.

    A Bernoulli draw per position comes first, so that the denoiser runs only for rows in which a
    position is redrawn; with a planner a step that redraws nothing needs no pass of the denoiser.

    Fields:
        planner: see `PlanningSampler`; None is the flow velocity c post(y), and exact for exact
            leave-one-out laws.
        schedule: see `PlanningSampler`; the grid runs from 1 to 0 in `steps` equal steps.
        jump: "integrated" over the step, or the "last" event at rates frozen at its begin.

    NFE: steps; with a planner at most two for each, one of the planner and one of the denoiser.
    """

    jump: Jump = "integrated"

    nfe = "steps; with a planner at most 2 steps"
    clock_use = "times"

    def amount(self, t: Tensor, s: Tensor) -> Tensor:
        """Return the length of the step from t to s as the jump takes it: J, or h c_t; like t."""
        alpha = self.schedule.alpha(t)
        if self.jump == "integrated":
            return (self.schedule.alpha(s) - alpha) / (1.0 - alpha)
        return (t - s) * self.schedule.rate(t) / (1.0 - alpha)

    def next_law(
        self, p: Tensor, noise: Tensor, x: Tensor, t: Tensor, s: Tensor, last: bool = False
    ) -> Tensor:
        """Return the law of x_s given x_t, [..., V].

        Args:
            p: law of the clean token of a position that is noise, [..., V].
            noise: rho, [...].
            x: x_t, int64 [...].
            t: time of x_t, float64, broadcast to [...].
            s: time of x_s, < t.
            last: the step to the data: the posterior, whatever the jump.
        """
        if last:
            return mixture_law(p, x, noise)
        jump, amount = _JUMPS[self.jump], self.amount(t, s).expand(x.shape)
        return mixture_law(jump.law(p, noise, x, amount), x, jump.coin(noise, amount))

    def step(
        self, state: None, canvas: Canvas, clock: Clock, predict: Predict, rng: RandomSource
    ) -> tuple[None, Step]:
        """Move every row from x_t to x_s."""
        t, s = (clock.at(grid_time(clock.step + i, clock.steps, 0.0), 0.0) for i in (0, 1))
        plan, jump, last = self.plan(canvas, predict, t), _JUMPS[self.jump], clock.last
        amount = self.amount(t, s)
        coin = torch.where(
            last.unsqueeze(1), plan.noise, jump.coin(plan.noise, amount.unsqueeze(1))
        )
        where = canvas.eligible & (rng.uniform(Stream.COMMIT, canvas.tokens) < coin)

        def rule(site: Site) -> Tensor:
            x, noise = canvas.tokens[site.row, site.column], plan.noise[site.row, site.column]
            law = jump.law(site.p, noise, x, amount[site.row])
            return torch.where(last[site.row].unsqueeze(-1), site.p, law)

        draw = self.draw(canvas, predict, plan, where, rng, rule=rule)
        return None, write_draws(canvas, draw, where, last)


register("planned", Planned)

"""Follow discrete flow matching along the mixture path: data with probability kappa, else noise.

    x1 ~ p(x1 | x_t);   u(y) = A 1[y = x1] + B w pi(y),  u(x) = 0
    jump with probability 1 - exp(-sum u), to y ~ u;   the last step is x <- x1
    A = (1 + d) int kappa' / (1 - kappa),   B = d int kappa' / kappa

kappa = alpha(t), d >= 0 weighs a divergence-free velocity, which moves tokens and leaves the
marginals as they are.  Gat et al. 2024, "Discrete Flow Matching", arXiv:2407.15595; steps as in the
flow_matching library (facebookresearch/flow_matching).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dlm_sampling.processes.flow import conditional_jump_law
from dlm_sampling.processes.tables import per_position, value_at
from dlm_sampling.samplers.parts.checks import at_least
from dlm_sampling.samplers.parts.grid_move import Interval, MaskMove
from dlm_sampling.samplers.parts.revising_grid import RevisingGrid
from dlm_sampling.samplers.registry import register
from dlm_sampling.schedules import Schedule
from dlm_sampling.types import PredictionKind, Process

Jump = Literal["integrated", "exponential"]
Form = Literal["released", "paper"]


def _integrated(schedule: Schedule, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    k, later = schedule.alpha(t), schedule.alpha(s)
    return torch.log1p(-k) - torch.log1p(-later), later.log() - k.log()


def _frozen(schedule: Schedule, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    k, moved = schedule.alpha(t), (t - s) * schedule.rate(t)
    return moved / (1.0 - k), moved / k


_JUMPS: dict[str, Callable[[Schedule, Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "integrated": _integrated,
    "exponential": _frozen,
}
"""kappa' / (1 - kappa) and kappa' / kappa over a step from t to s."""


def _always(post: Tensor, x: Tensor, noise: Tensor, kappa: Tensor) -> Tensor:
    return torch.ones_like(kappa)


def _where_clean(post: Tensor, x: Tensor, noise: Tensor, kappa: Tensor) -> Tensor:
    """Return P(the token is data | x_t) = post(x) kappa / (kappa + (1 - kappa) pi(x))."""
    k = per_position(kappa, x, post)
    reached = k + (1.0 - k) * value_at(noise, x)
    return torch.where(reached > 0, value_at(post, x) * k / reached, 0.0).squeeze(-1)


_FORMS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "released": _always,
    "paper": _where_clean,
}
"""The weight w of the noise."""


@dataclass(frozen=True)
class FlowMatching(RevisingGrid):
    """Draw a clean token at each position and jump to it with the probability of the path.

    Fields:
        schedule: see `RevisingGrid`, kappa = alpha(t); the paper's polynomials are `Polynomial(n)`.
        noise_removal: see `RevisingGrid`; "sample" is the released rule.
        jump: "integrated" integrates the velocity over the step, J = (kappa_s - kappa_t) / (1 -
            kappa_t); "exponential", the released rule, freezes it at t, J = 1 - exp(-h kappa' / (1
            - kappa)), which is far off near the end of the path unless steps are short there.
        divergence_free: strength of the weight d_t = divergence_free t^power (1 - t)^power_rest;
            powers of 0 make it a constant, the released form.  At kappa = 0 it is taken as 0:
            there all is noise, which the term would only draw afresh.
        power: exponent of t; above 0 the term fades towards the data, where kappa' / (1 - kappa)
            diverges.  Without a mask a constant weight converges more slowly than 1 / steps.
        power_rest: exponent of 1 - t.
        form: "released" replaces any token by noise, w = 1: redrawing from p_t(. | x1).  "paper" is
            the corrector a u - b v of forward and backward velocity, a = 1 + d, b = d: w is the
            probability that the token is data.  On masks, where they are the same, it is also
            the velocity of `dfm-corrector`, on another grid.

    NFE: steps; on masks the number of steps that reveal something.
    """

    jump: Jump = "integrated"
    divergence_free: float = 0.0
    power: float = 0.0
    power_rest: float = 0.0
    form: Form = "released"

    paper = "Gat et al. 2024, arXiv:2407.15595"

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("divergence_free", self.divergence_free, 0.0, "0 is the plain flow, try 1")
        at_least("power", self.power, 0.0, "0 is a constant weight, the paper uses 0.25 or 0.5")
        at_least("power_rest", self.power_rest, 0.0, "0 is a constant weight")

    @property
    def revises(self) -> bool:
        """Return whether the divergence-free term is on.

        On masks, no other term changes a written token.
        """
        return self.divergence_free > 0.0

    def reads(self, process: Process) -> PredictionKind:
        """Return the law of x1 given all of x_t."""
        return "posterior"

    def rates(self, interval: Interval) -> tuple[Tensor, Tensor]:
        """Return a and B of a step, like `interval.t`."""
        kappa = self.schedule.alpha(interval.t)
        weight = self.divergence_free * interval.t**self.power
        weight = weight * (1.0 - interval.t) ** self.power_rest
        d = weight.where(kappa > 0, 0.0)
        data, noise = _JUMPS[self.jump](self.schedule, interval.t, interval.s)
        return (1.0 + d) * data, torch.where(d > 0, d * noise, 0.0)

    def mask_move(self, interval: Interval) -> MaskMove:
        """Return 1 - exp(-A) at a mask, 1 - exp(-B) at a token."""
        towards, around = self.rates(interval)
        return MaskMove(-torch.expm1(-towards), -torch.expm1(-around))

    def next_law(self, process: Process, values: Tensor, x: Tensor, interval: Interval) -> Tensor:
        """Return the law of x_s given x_t, [..., V], x1 summed out: `flow.conditional_jump_law`."""
        towards, around = self.rates(interval)
        noise = process.forward(values, torch.zeros_like(towards))
        kappa = self.schedule.alpha(interval.t)
        around = around * _FORMS[self.form](values, x, noise, kappa)
        return conditional_jump_law(values, x, noise, towards, around)


register("flow-matching", FlowMatching)

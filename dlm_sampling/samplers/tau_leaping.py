"""Take Poisson jumps with the rates frozen over a step, h = t - s, Lambda = sum R_t: tau-leaping.

    last      q(x_s = v | x_t = u) = (1 - exp(-h Lambda)) R_t(u, v) / Lambda
    reject    q(x_s = v | x_t = u) = h R_t(u, v) exp(-h Lambda)
    displace  x_s = clamp(u + sum_v k_v (v - u)),   k_v ~ Poisson(h R_t(u, v)), ordered symbols

"last" keeps the last of several events, "reject" drops a position that has more than one,
"displace" adds up their displacements.  On masks R_t(m, v) = c_t p0(v), Lambda = c_t.  With the
rate integrated over the step instead of frozen this is the ancestral step.  Campbell et al. 2022,
"A Continuous Time Framework for Discrete Denoising Models", arXiv:2205.14987.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dlm_sampling.processes.jumps import displacement_law, last_event_law, single_event_law
from dlm_sampling.samplers.parts.checks import NoiseRemoval
from dlm_sampling.samplers.parts.grid import GridSampler
from dlm_sampling.samplers.registry import register
from dlm_sampling.schedules import LINEAR, Schedule, reverse_rate
from dlm_sampling.types import Process

Events = Literal["last", "reject", "displace"]


def _at_least_one(mean: Tensor) -> Tensor:
    return -torch.expm1(-mean)


def _exactly_one(mean: Tensor) -> Tensor:
    return mean * torch.exp(-mean)


_PROBABILITY: dict[str, Callable[[Tensor], Tensor]] = {
    "last": _at_least_one,
    "reject": _exactly_one,
    "displace": _at_least_one,  # of a mask there is one jump, whatever it is called
}
_LAW: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "last": last_event_law,
    "reject": single_event_law,
    "displace": displacement_law,
}


@dataclass(frozen=True)
class TauLeaping(GridSampler):
    """Reveal each masked position that has a Poisson event of rate c_t within the step.

    Fields:
        schedule, t_end: see `GridSampler`.
        noise_removal: see `GridSampler`; "argmax" is the released rule.
        events: the effect of several events at one position, "last" (the last one wins), "reject"
            (the position stays) or "displace" (displacements add up: for ordered symbols, such as
            pitches or pixels; on masks it is "last").

    NFE: number of steps that reveal something, at most min(steps + 1, tokens).
    """

    schedule: Schedule = LINEAR
    t_end: float = 1e-3
    noise_removal: NoiseRemoval = "argmax"
    events: Events = "last"

    paper = "Campbell et al. 2022, arXiv:2205.14987"

    def reveal_prob(self, t: Tensor, s: Tensor) -> Tensor:
        """Return `event_prob` of (t - s) c_t, float64 like t."""
        return self.event_prob((t - s) * reverse_rate(self.schedule, t))

    def event_prob(self, mean: Tensor) -> Tensor:
        """Return the probability of revealing a mask at m expected events, 1 - e^-m or m e^-m."""
        return _PROBABILITY[self.events](mean)

    def next_law(self, process: Process, values: Tensor, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """Return the law of x_s given x_t, [..., V], with the multi-jump rule of `events`."""
        return _LAW[self.events](self.rates(process, values, x, t), x, t - s)


register("tau-leaping", TauLeaping)

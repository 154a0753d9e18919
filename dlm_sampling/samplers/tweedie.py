"""Tweedie (analytic) steps: the exact reversal of one position's noise from its ratios.

    masks:  q(x_s = v | x_t = m) = (e^-sigma_s - e^-sigma_t) / (1 - e^-sigma_t) p0(v)
    uniform noise over S symbols, d = sigma_t - sigma_s, ratios s(v),
            q(x_s = v | x_t = u) ~ [e^d s(v) - (e^d - 1) / S sum s]
                                   (e^-d 1[v = u] + (1 - e^-d) / S),   alpha = e^-sigma

Written in the prediction p0 this is the ancestral step under every schedule; a network's ratios
need not belong to a law, and then its learned time scale shows.  Lou et al. 2024, arXiv:2310.16834,
theorem 4.2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dlm_sampling.processes.tweedie import tweedie_uniform
from dlm_sampling.samplers.parts.checks import NoiseRemoval
from dlm_sampling.samplers.parts.grid import GridSampler
from dlm_sampling.samplers.registry import register
from dlm_sampling.schedules import LOG_LINEAR, Schedule
from dlm_sampling.types import Process


@dataclass(frozen=True)
class Tweedie(GridSampler):
    """Reveal each masked position with its exact probability, and end with a sample, as SEDD does.

    Up to the last step this is ancestral sampling, number for number.

    Fields:
        schedule: alpha(t).
        t_end: the grid runs from 1 to t_end in `steps` equal steps.
        noise_removal: how the positions still masked at t_end are written in a last step, by a
            "sample" (the released rule) or by the "argmax".

    NFE: number of steps that reveal something, at most min(steps + 1, tokens).
    """

    schedule: Schedule = LOG_LINEAR
    t_end: float = 1e-5
    noise_removal: NoiseRemoval = "sample"

    runs_on = ("absorbing", "uniform")
    recorded_on = ("absorbing",)
    paper = "Lou et al. 2024, arXiv:2310.16834"

    def reveal_prob(self, t: Tensor, s: Tensor) -> Tensor:
        """(alpha_s - alpha_t) / (1 - alpha_t), float64 like t."""
        alpha_t, alpha_s = self.schedule.alpha(t), self.schedule.alpha(s)
        return (alpha_s - alpha_t) / (1.0 - alpha_t)

    def next_law(self, process: Process, values: Tensor, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """Law of x_s given x_t from ratios under uniform noise, [..., V]: `tweedie_uniform`.

        Raises:
            ValueError: alpha(1) = 0, where all ratios are 1 and say nothing of the data.
        """
        if float(self.schedule.alpha(torch.ones((), dtype=torch.float64))) <= 0.0:
            raise ValueError(
                f"schedule={self.schedule}: has alpha(1) = 0, where ratios of probabilities are "
                "all 1. Without a mask take LogLinear() or another schedule with alpha(1) > 0, or "
                "the sampler 'ancestral'."
            )
        return tweedie_uniform(values, x, *self.levels(t, s))


register("tweedie", Tweedie)

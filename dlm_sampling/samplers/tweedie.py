"""Reverse one position's noise exactly from its ratios: Tweedie (analytic) steps.

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
from dlm_sampling.types import Process


@dataclass(frozen=True)
class Tweedie(GridSampler):
    """Reveal each masked position with its exact probability, and end with a sample, as SEDD does.

    Up to the last step this is ancestral sampling, number for number.

    Fields:
        schedule, t_end: see `GridSampler`.
        noise_removal: see `GridSampler`; "sample" is the released rule.

    NFE: number of steps that reveal something, at most min(steps + 1, tokens).
    """

    noise_removal: NoiseRemoval = "sample"

    runs_on = ("absorbing", "uniform")
    recorded_on = ("absorbing",)
    paper = "Lou et al. 2024, arXiv:2310.16834"

    def reveal_prob(self, t: Tensor, s: Tensor) -> Tensor:
        """Return (alpha_s - alpha_t) / (1 - alpha_t), float64 like t."""
        alpha_t, alpha_s = self.schedule.alpha(t), self.schedule.alpha(s)
        return (alpha_s - alpha_t) / (1.0 - alpha_t)

    def next_law(self, process: Process, values: Tensor, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """Return the law of x_s given x_t from ratios, [..., V]: `tweedie_uniform`.

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

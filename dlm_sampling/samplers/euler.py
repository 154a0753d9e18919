"""Take Euler steps of the reverse jump process.

    q(x_s = v | x_t = u) = h R_t(u, v),   v != u,   h = t - s;   negative weights count as 0
    masks:  q(x_s = v | x_t = m) = min{1, h c_t} p0(v),   c_t = -alpha'(t) / (1 - alpha(t))

For the linear schedule h c_t = (alpha_s - alpha_t) / (1 - alpha_t), the ancestral step.  Lou et al.
2024, "Discrete Diffusion Modeling by Estimating the Ratios of the Data Distribution",
arXiv:2310.16834.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dlm_sampling.processes.jumps import euler_law
from dlm_sampling.samplers.parts.checks import NoiseRemoval
from dlm_sampling.samplers.parts.grid import GridSampler
from dlm_sampling.samplers.registry import register
from dlm_sampling.schedules import reverse_rate
from dlm_sampling.types import Process


@dataclass(frozen=True)
class Euler(GridSampler):
    """Reveal each masked position with probability h c_t, the rate of the reverse process.

    A product above 1 counts as 1: the released code clamps the negative probability of staying.

    Fields:
        schedule, t_end: see `GridSampler`.
        noise_removal: see `GridSampler`; "sample" is the released rule.

    NFE: number of steps that reveal something, at most min(steps + 1, tokens).
    """

    noise_removal: NoiseRemoval = "sample"

    paper = "Lou et al. 2024, arXiv:2310.16834"

    def reveal_prob(self, t: Tensor, s: Tensor) -> Tensor:
        """Return min{1, (t - s) c_t}, float64 like t."""
        return ((t - s) * reverse_rate(self.schedule, t)).clamp(max=1.0)

    def next_law(self, process: Process, values: Tensor, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """Return the law of x_s given x_t, [..., V]: `jumps.euler_law` of the rates."""
        return euler_law(self.rates(process, values, x, t), x, t - s)


register("euler", Euler)

"""Take two-stage steps that restart from x: the theta-RK-2 method.

    x*:  leap from x_t over theta W with the rates c_t p_t
    x_s: leap from x_t over W with the rates [(1 - 1/(2 theta)) c_t p_t + 1/(2 theta) c_rho p_rho]_+

on masks, where p_rho = 0 where x* holds a token; under other noise R_t stands for c_t p_t.  The
tokens of x* are forgotten: the method is of first order, on masks no better than tau-leaping.  Ren
et al. 2025, "Fast Solvers for Discrete Diffusion Models", arXiv:2502.00234, algorithm 1.  The
hazard clock is this library's; "time" is the printed form.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dlm_sampling.processes.theta import rk2_rates, rk2_weights
from dlm_sampling.samplers.parts.two_stage import TwoStage
from dlm_sampling.samplers.registry import register


@dataclass(frozen=True)
class ThetaRK2(TwoStage):
    """Look ahead part of the way, then leap from the start at rates mixed from both predictions.

    `steps` counts forward passes, two per interval of the grid, so that solvers compare at equal
    cost.

    Fields:
        theta: share of the interval that stage 1 looks ahead, in (0, 1].
        schedule, t_end, clock: see `TwoStage`.
        noise_removal: see `TwoStage`; "argmax" is the released rule.

    NFE: at most 2 max(1, steps // 2) + 1.
    """

    restarts = True
    unscored = "the canvas of its look-ahead is drawn and forgotten"
    paper = "Ren et al. 2025, arXiv:2502.00234"
    nfe = "2 per interval, steps // 2 intervals, and the noise removal; less where nothing happens"
    clock_use = "times"

    def rates(self, rates_t: Tensor, rates_star: Tensor) -> Tensor:
        """Return [(1 - 1/(2 theta)) R_t + 1/(2 theta) R*]_+."""
        return rk2_rates(rates_t, rates_star, self.theta)

    def bound(self, rate_t: Tensor, rate_star: Tensor) -> Tensor:
        """Return the positive part of the first factor times c_t, plus the second times c_rho."""
        first, second = rk2_weights(self.theta)
        return max(first, 0.0) * rate_t + second * rate_star


register("theta-rk2", ThetaRK2)

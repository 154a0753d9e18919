"""Take two-stage steps with extrapolated rates: the theta-trapezoidal method.

    x*:  leap from x_t over theta W with the rates c_t p_t
    x_s: leap from x* over (1 - theta) W with the rates [a1 c_rho p_rho - a2 c_t p_t]_+,
         a1 = 1 / (2 theta (1 - theta)),   a2 = ((1 - theta)^2 + theta^2) a1

p_t and p_rho are the predictions at x_t and x*; under other noise R_t stands for c_t p_t.  The
error of a step is of third order where nothing is clamped, of second order elsewhere: where a token
is much less likely at x* than at x_t.  Ren et al. 2025, "Fast Solvers for Discrete Diffusion
Models", arXiv:2502.00234, algorithm 2.  The hazard clock, on which W = ln((1 - alpha_t) / (1 -
alpha_s)) and c = 1, is this library's; "time" is the printed form.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dlm_sampling.ops import Remainder, Stream, without_sync
from dlm_sampling.processes.theta import trapezoidal_rates, trapezoidal_weights
from dlm_sampling.samplers.parts.kept_laws import unpack
from dlm_sampling.samplers.parts.two_stage import StageInterval, StageState, TwoStage
from dlm_sampling.samplers.registry import register
from dlm_sampling.types import Canvas, Draw, Prediction, RandomSource


@dataclass(frozen=True)
class ThetaTrapezoidal(TwoStage):
    """Leap part of the way, then the rest at rates extrapolated from both predictions.

    Second order in the number of steps where no rate is clamped.  `steps` counts forward passes,
    two per interval of the grid, so that solvers compare at equal cost.

    Fields:
        theta: share of the interval that stage 1 leaps over, in (0, 1).
        schedule, t_end, clock: see `TwoStage`.
        noise_removal: see `TwoStage`; "argmax" is the released rule.

    NFE: at most 2 max(1, steps // 2) + 1.
    """

    restarts = False
    scored_on = ("absorbing", "uniform", "matrix")
    paper = "Ren et al. 2025, arXiv:2502.00234"
    nfe = "2 per interval, steps // 2 intervals, and the noise removal; less where nothing happens"
    clock_use = "times"

    def rates(self, rates_t: Tensor, rates_star: Tensor) -> Tensor:
        """Return [a1 R* - a2 R_t]_+."""
        return trapezoidal_rates(rates_t, rates_star, self.theta)

    def bound(self, rate_t: Tensor, rate_star: Tensor) -> Tensor:
        """Return a1 c_rho, since p_rho sums to 1."""
        return trapezoidal_weights(self.theta)[0] * rate_star

    def jump(
        self,
        state: StageState,
        where: Tensor,
        canvas: Canvas,
        interval: StageInterval,
        prediction: Prediction,
        rng: RandomSource,
    ) -> tuple[Tensor, Draw]:
        """Accept candidates and draw their tokens, in one read of both laws.

        The sum of the rates is the normaliser of their draw.  Where x* holds a token R* is 0 and
        nothing jumps.
        """
        masked = where & (state.star == canvas.mask)
        row = masked.nonzero(as_tuple=True)[0]
        log_star, log_t = (
            prediction.log_probs(masked),
            unpack(state.laws, state.candidates, masked),
        )
        nothing = log_star.new_zeros(len(row))
        a1, a2 = trapezoidal_weights(self.theta)
        factors = a1 * interval.rate_star[row], a2 * interval.rate_t[row]
        rates = Remainder(log_star, log_t.to(log_star.dtype), nothing, nothing, factors)
        with (
            without_sync()
        ):  # a position none of whose rates is positive has no law, and never jumps
            draw = prediction.draw_from(rates, masked, rng, sub=1)
        total = draw.log_normalizer.double().exp()
        chance = -torch.expm1(-self.second_window(interval).unsqueeze(1) * total)
        u = rng.uniform(Stream.COMMIT, canvas.tokens)
        return masked & (u * self.bound_prob(interval).unsqueeze(1) < chance), draw


register("theta-trapezoidal", ThetaTrapezoidal)

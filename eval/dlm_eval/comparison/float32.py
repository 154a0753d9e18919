"""Draw as released code with float32 Gumbel noise does, to measure what the rounding costs.

That code lets tokens and the mask race, argmin over v of E_v / q_v with E_v = -log u and u a
float32 number of [0, 1), a multiple of 2^-24.  So E_v is never below 2^-24, and token v, of
probability p_v rho in a step that reveals with a small probability rho, beats the mask with

    P(v) = E floor(c_v E_mask) / 2^24 = 2^-24 / (exp(1 / c_v) - 1),      c_v = 2^24 rho p_v

in place of p_v rho.  Tokens with c_v well below 1 are never drawn: the finer the grid, the more of
the tail is lost, and the entropy falls.  Zheng et al. 2024, arXiv:2409.02908, section 4.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dlm_sampling.ops import Stream
from dlm_sampling.samplers import Ancestral, reveal
from dlm_sampling.types import Canvas, Clock, Predict, RandomSource, Site, Step

GRID = 2.0**24
"""Values of a float32 number of torch's uniform generator in [0, 1)."""


def raced_law(p: Tensor, rho: Tensor) -> Tensor:
    """Return the law of the token that float32 Gumbel noise reveals, [..., V] like p.

    Args:
        p: exact law, float64 [..., V].
        rho: probability that the step reveals the position, float64 [...]; small.
    """
    weight = 1.0 / torch.expm1(1.0 / (GRID * rho.unsqueeze(-1) * p))
    return weight / weight.sum(-1, keepdim=True)


@dataclass(frozen=True)
class Float32Ancestral(Ancestral):
    """Reveal masked positions as `Ancestral` does, with the tokens of a race on a fine time grid.

    Only the law of the token differs, so that the rounding is seen by itself, whatever the number
    of steps; the small loss of reveals that the rounding also causes is left out.

    Fields:
        grid: steps of the time grid whose races are imitated, at least 1.
    """

    grid: int = 1024

    runs_on = ("absorbing",)

    def step(
        self, state: None, canvas: Canvas, clock: Clock, predict: Predict, rng: RandomSource
    ) -> tuple[None, Step]:
        """Move every row from x_t to x_s."""
        t = self.time_at(clock.step, clock.steps)
        s = self.time_at(clock.step + 1, clock.steps)
        removal = clock.step >= clock.steps
        revealed = rng.uniform(Stream.COMMIT, canvas.tokens) < self.reveal_prob(t, s).unsqueeze(1)
        where = canvas.eligible & (removal.unsqueeze(1) | revealed)
        rho = self.reveal_prob(t, (t - (1.0 - self.t_end) / self.grid).clamp_min(0.0))

        def rule(site: Site) -> Tensor:
            return raced_law(site.p, rho[site.row])

        draw = predict(canvas.tokens, t).draw_by(
            rule, where, rng, alpha=self.schedule.alpha(t), reads=predict.process.reads,
            greedy=removal if self.noise_removal == "argmax" else None,
        )  # fmt: skip
        return None, reveal(canvas, where, draw)

"""Follow discrete flow matching on masks with a corrector and an adaptive step.

    x_t = m:   q(v) = a_t (alpha_s - alpha_t) / (1 - alpha_t) p0(v)
    x_t != m:  q(m) = b_t (alpha_s - alpha_t) / alpha_t,      b_t = a_t - 1
    a_t = 1 + strength t^u (1 - t)^v,   t - s = min{1 / N, 1 / (a_t / t + b_t / (1 - t))}

With sigma = b_t (alpha_s - alpha_t) / alpha_t this is ReMDM's posterior.  Gat et al. 2024,
"Discrete Flow Matching", arXiv:2407.15595, section 3 and appendix D, as released with ReMDM,
arXiv:2503.00307.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dlm_sampling.ops import Stream
from dlm_sampling.samplers.base import SamplerBase
from dlm_sampling.samplers.parts.checks import at_least, check_t_end
from dlm_sampling.samplers.parts.choices import log_moves
from dlm_sampling.samplers.parts.remasking import (
    Rates,
    remask_probs,
    reveal_and_remask,
    unmask_prob,
)
from dlm_sampling.samplers.registry import register
from dlm_sampling.types import Canvas, Choice, Clock, Predict, RandomSource, Step, TokenLaw

_STRONGEST = 1000.0  # its grid has about 3,400 points, 340 times those of the released value


class DFMState(NamedTuple):
    """Hold the time of every row."""

    t: Tensor  # float64 [B], time of the canvas


@dataclass(frozen=True)
class DFMCorrector(SamplerBase[DFMState]):
    """Unmask faster than ancestral sampling and mask the surplus again.

    The step is short enough to keep both probabilities below 1.  The grid ends at the first
    t <= (1 - t_end) / N; the last masks are written by the argmax.

    Fields:
        strength: factor of the corrector; 0 is ancestral sampling.
        power: u, the exponent of t.
        power_rest: v, the exponent of 1 - t.
        t_end: sets the end of the grid.

    NFE: number of steps that reveal something; at most the length of the grid, several times
    `steps` for a few steps, about `steps` for many.
    """

    strength: float = 10.0
    power: float = 0.25
    power_rest: float = 0.25
    t_end: float = 1e-5

    law = TokenLaw(top_p=0.9, crossing="exclude")
    paper = "Gat et al. 2024, arXiv:2407.15595"
    nfe = "steps that reveal something; the adaptive grid has more points than steps"
    clock_use = "begin"

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("strength", self.strength, 0.0, "the released value is 10")
        if self.strength > _STRONGEST:
            raise ValueError(
                f"strength={self.strength}: must be at most {_STRONGEST:g}, because steps "
                "shrink as 1 / strength; the released value is 10."
            )
        at_least("power", self.power, 0.0, "the released value is 0.25")
        at_least("power_rest", self.power_rest, 0.0, "the released value is 0.25")
        check_t_end(self.t_end)

    @property
    def revises(self) -> bool:
        """Return True: written tokens may be masked again."""
        return True

    def schedule_length(self, steps: int) -> int:
        """Return the points of the adaptive grid and the last argmax."""
        return len(self.grid(steps))

    def grid(self, steps: int) -> list[float]:
        """Return the times from 1 down to the end of the grid, for N = steps."""
        planned = torch.tensor(steps)
        times = [torch.ones((), dtype=torch.float64)]
        while not bool(self.over(times[-1], planned)):
            times.append(self.following(times[-1], planned))
        return [float(t) for t in times]

    def over(self, t: Tensor, steps: Tensor) -> Tensor:
        """Return whether the grid ends at t, bool like t."""
        return t <= (1.0 - self.t_end) / steps.double()

    def surplus(self, t: Tensor) -> Tensor:
        """Return b_t = a_t - 1 = strength t^u (1 - t)^v; 0 at t = 1, where nothing is committed."""
        return torch.where(
            t < 1.0, self.strength * t**self.power * (1.0 - t) ** self.power_rest, 0.0
        )

    def following(self, t: Tensor, steps: Tensor) -> Tensor:
        """Return the next time t - min{1 / N, 1 / (a_t / t + b_t / (1 - t))}, float64 like t."""
        b = self.surplus(t)
        inside = 1.0 / ((1.0 + b) / t + b / (1.0 - t))
        longest = 1.0 / steps.double()
        return t - torch.where(t < 1.0, torch.minimum(longest, inside), longest)

    def rates(self, t: Tensor, s: Tensor) -> Rates:
        """Return alpha_t, alpha_s and sigma = b_t (alpha_s - alpha_t) / alpha_t, each like t."""
        return Rates(
            1.0 - t, 1.0 - s, torch.where(t < 1.0, self.surplus(t) * (t - s) / (1.0 - t), 0.0)
        )

    def init(self, canvas: Canvas) -> DFMState:
        """Return time 1; a clock starts when its row enters a block."""
        return DFMState(torch.ones_like(canvas.start, dtype=torch.float64))

    def step(
        self, state: DFMState, canvas: Canvas, clock: Clock, predict: Predict, rng: RandomSource
    ) -> tuple[DFMState, Step]:
        """Move every row from x_t to x_s."""
        t = torch.where(clock.step == 0, clock.begin, state.t)
        s, last = self.following(t, clock.steps), self.over(t, clock.steps)
        rates = self.rates(t.unsqueeze(1), s.unsqueeze(1))
        u = rng.uniform(Stream.COMMIT, canvas.tokens)
        where = canvas.eligible & (last.unsqueeze(1) | (u < unmask_prob(rates)))
        remask = canvas.committed & ~last.unsqueeze(1) & (u < rates.sigma)
        draw = predict(canvas.tokens, canvas.unknown_fraction).draw(where, rng, greedy=last)
        return DFMState(s), reveal_and_remask(canvas, where, remask, draw)

    def choice_logprob(self, canvas: Canvas, clock: Clock, choice: Choice) -> Tensor:
        """Return the law of independent choices, at the time of the adaptive grid."""
        t = torch.full_like(canvas.start, clock.begin, dtype=torch.float64)
        for k in range(int(clock.step.max())):
            t = torch.where(clock.step > k, self.following(t, clock.steps), t)
        rates = self.rates(t, self.following(t, clock.steps))
        return log_moves(canvas, choice, unmask_prob(rates), rates.sigma, self.over(t, clock.steps))

    def transition_probs(self, canvas: Canvas, log_p0: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """Return the exact law of x_s given x_t, [B, L, V]; t > s float64 broadcast to [B, 1]."""
        return remask_probs(canvas, log_p0, self.rates(t, s))


register("dfm-corrector", DFMCorrector)

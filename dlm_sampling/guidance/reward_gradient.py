"""Tilt the law of each mask by the gradient of a reward: RGAS of DiDi-Instruct.

    log p~ = log p + h(t) clip(dR / d log p, -1, 1) - log Z

R reads the log-law of every position, that of a committed token being (almost) one-hot, and h rises
from h0 at time 1 to h1 at time 0; below `until` the rest is written as without it.  Zheng et al.
2025, "Ultra-Fast Language Generation via Discrete Diffusion Divergence Instruct", arXiv:2509.25035;
its second half, the choice among candidates, is `BestOf`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dlm_sampling.errors import check_fields, named
from dlm_sampling.guidance.base import Guidance, Moment
from dlm_sampling.guidance.classifier import gradient_of

SURE = 1e9
"""The logit of a token that stands; its rivals have the negative of it."""


@dataclass(frozen=True)
class RewardGradient(Guidance):
    """Tilt laws by the clipped gradient of a reward of log-laws.

    Fields:
        reward: maps log-laws float [n, L, V] to rewards [n], with a graph; rows stand alone.
        strength: h0, at time 1.
        final: h1, at time 0.
        until: the time in [0, 1) below which nothing is tilted.
        clip: largest absolute value of the gradient.

    NFE: none; the reward has one forward and one backward pass per step.
    """

    reward: Callable[[Tensor], Tensor]
    strength: float = 30.0
    final: float = 40.0
    until: float = 0.5
    clip: float = 1.0

    def __post_init__(self) -> None:
        if not callable(self.reward):
            raise TypeError(f"reward is {named(self.reward)}: must be a function of log-laws.")
        check_fields(self)
        for name in ("strength", "final"):
            if not math.isfinite(vars(self)[name]):
                raise ValueError(f"{name}={vars(self)[name]}: must be finite; 0 is no guidance.")
        if not 0.0 <= self.until < 1.0:
            raise ValueError(f"until={self.until}: must be in [0, 1); try 0.5.")
        if not self.clip > 0.0:
            raise ValueError(f"clip={self.clip}: must be above 0; try 1.")

    @property
    def tilts(self) -> bool:
        """Return whether there is any tilt."""
        return self.strength != 0.0 or self.final != 0.0

    @property
    def keeps_rates(self) -> bool:
        """Return True: only moves are tilted."""
        return True

    def tilt(self, moment: Moment, where: Tensor, log_p: Callable[[], Tensor]) -> Tensor:
        """Return h(t) times the clipped gradient, float64 [n, L, V]."""
        gradient = gradient_of("reward", self.reward, log_p()).double().clamp(-self.clip, self.clip)
        h = self.strength + (self.final - self.strength) * (1.0 - moment.t.double())
        h = h.where(moment.t >= self.until, 0.0)
        return (h[:, None, None] * gradient).masked_fill(~where.unsqueeze(-1), 0.0)


def standing(x: Tensor, vocab_size: int) -> Tensor:
    """Return the log-law of tokens that stand, SURE at the token and -SURE elsewhere, [n, L, V]."""
    one_hot = torch.nn.functional.one_hot(x, vocab_size).bool()
    return torch.where(one_hot, SURE, -SURE).float()

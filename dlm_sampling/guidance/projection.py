"""Project the laws of a canvas onto those that satisfy a constraint: CDD.

    y = argmin KL(p || y)  such that  g(y) <= tau,   p the laws of all open positions, [L, V]

by an augmented Lagrangian: with D = max(0, g(y) - tau),

    inner   gradient steps on the logits of y of  KL(p || y) + lam D + mu / 2 D^2
    outer   lam <- lam + mu D,   mu <- min(growth mu, largest mu)

g is a differentiable function of the laws, such as an expected cost; here it reads y itself, where
the paper relaxes a draw by a Gumbel softmax.  A constraint of laws holds on average, not for every
text: check finished texts, or use `generate(constraint=)`, which never fails.

Cardei et al. 2025, "Constrained Discrete Diffusion", arXiv:2503.09790; numbers are ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from dlm_sampling.errors import check_fields, named
from dlm_sampling.guidance.base import Guidance, Moment, one_per_row

_IMPOSSIBLE = -1e8  # a logit below it is that of a token that cannot be
_AT_REST = 1e-9  # a row whose step changes no logit by more is at rest


@dataclass(frozen=True)
class Projection(Guidance):
    """Replace laws by the nearest ones with g(y) <= bound.

    Laws that satisfy the constraint already stay as they are.

    Fields:
        constraint: g, maps laws float64 [n, L, V] to [n], with a graph; tokens that stand are
            one-hot; rows stand alone.
        bound: tau.
        outer: most rounds of the multiplier; 0 is the run without it.
        inner: gradient steps per round.
        penalty: first mu.
        growth: factor of mu per round, >= 1.
        most: largest mu.

    NFE: none; at most outer times inner passes of g, forward and backward, per step.
    """

    constraint: Callable[[Tensor], Tensor]
    bound: float = 0.0
    outer: int = 20
    inner: int = 60
    penalty: float = 1.0
    growth: float = 1.5
    most: float = 100.0

    def __post_init__(self) -> None:
        if not callable(self.constraint):
            raise TypeError(f"constraint is {named(self.constraint)}: must be a function of laws.")
        check_fields(self)
        if not math.isfinite(self.bound):
            raise ValueError(f"bound={self.bound}: must be finite.")
        for name in ("outer", "inner"):
            if vars(self)[name] < 0:
                raise ValueError(f"{name}={vars(self)[name]}: must be at least 0.")
        if not 0.0 < self.penalty <= self.most < math.inf or not self.growth >= 1.0:
            raise ValueError(
                f"penalty={self.penalty}, growth={self.growth}, most={self.most}: need 0 < penalty "
                "<= most, finite, and growth >= 1."
            )

    @property
    def tilts(self) -> bool:
        """Return whether any step is taken."""
        return self.outer > 0 and self.inner > 0

    @property
    def keeps_rates(self) -> bool:
        """Return True: only moves are tilted."""
        return True

    def tilt(self, moment: Moment, where: Tensor, log_p: Callable[[], Tensor]) -> Tensor:
        """Return log y - log p up to a constant of each position, float64 [n, L, V]."""
        return self.project(log_p().double(), where)

    def project(self, first: Tensor, where: Tensor) -> Tensor:
        """Return what the projection adds to logits [n, L, V] at `where` (bool [n, L])."""
        possible = first > _IMPOSSIBLE
        first = first.masked_fill(~possible, -math.inf)
        p, movable = first.softmax(-1), where.unsqueeze(-1) & possible
        added, lam, mu = torch.zeros_like(first), torch.zeros_like(first[:, 0, 0]), self.penalty
        for _ in range(self.outer):
            moving = torch.ones_like(lam, dtype=torch.bool)
            for turn in range(self.inner):
                step = self.descent(first + added, p, movable, lam, mu)
                # A row rests by itself, so that rows do not depend on their batch.
                moving = moving & (step.abs().amax((1, 2)) > _AT_REST)
                if not bool(moving.any()):
                    if turn == 0:
                        return added
                    break
                added = added - step * moving[:, None, None]
            lam = lam + mu * self.excess(first + added)
            mu = min(self.growth * mu, self.most)
        return added

    def excess(self, logits: Tensor) -> Tensor:
        """Return D = max(0, g(y) - tau), [n]."""
        with torch.no_grad():
            return (self.asked(logits.softmax(-1)) - self.bound).clamp_min(0.0)

    def asked(self, y: Tensor) -> Tensor:
        """Return g(y), float64 [n]."""
        return one_per_row("constraint", self.constraint(y), len(y))

    def descent(self, logits: Tensor, p: Tensor, movable: Tensor, lam: Tensor, mu: float) -> Tensor:
        """Return a step down the Lagrangian, [n, L, V], 0 where nothing is `movable`.

        A step in logits along the gradient divided by y (the natural gradient of a law) changes
        rare tokens as fast as frequent ones; it is shortened where the penalty is stiff.
        """
        with torch.enable_grad():
            y = logits.softmax(-1).detach().requires_grad_()
            g = self.asked(y)
            (slope,) = cast("tuple[Tensor]", torch.autograd.grad(g.sum(), y))
        y, over = y.detach(), (g.detach() - self.bound).clamp_min(0.0)
        pull = (lam + mu * over)[:, None, None]
        centred = (slope - (y * slope).sum(-1, keepdim=True)) * movable
        stiff = mu * (y * centred.square()).sum((1, 2)) * (over > 0.0)
        size = 1.0 / (1.0 + stiff + (pull * centred).abs().amax((1, 2)))
        return size[:, None, None] * movable * (1.0 - p / y.clamp_min(1e-30) + pull * centred)

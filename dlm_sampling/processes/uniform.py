"""Replace each token by a uniform one with probability 1 - alpha: the uniform process.

    q_t(y | x0) = alpha 1[y = x0] + (1 - alpha) / S

Laws are tables [..., S].  Every rule says whether it reads the leave-one-out law or the posterior;
`conversions` turns one into the other.  beta = -alpha' / alpha, c = -alpha' / (1 - alpha).  Austin
et al. 2021, arXiv:2107.03006; Schiff et al. 2024, arXiv:2412.10193 (UDLM); Sahoo et al. 2025,
arXiv:2506.10892 (Duo).

In the loop nothing marks a noisy position: the first canvas is `prior`, and every position of a
block stays unknown until the last step of its schedule.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dlm_sampling.ops import Stream
from dlm_sampling.processes.conversions import convert_uniform
from dlm_sampling.processes.tables import off_diagonal, one_hot, per_position
from dlm_sampling.types import NoiseKind, PredictionKind, RandomSource

_LEAST = 1e-12  # of alpha in a rate: at pure noise rates are infinite, and a leap forgets the token


@dataclass(frozen=True)
class Uniform:
    """Describe replacement by uniform tokens, with the laws that follow from it."""

    name: ClassVar[NoiseKind] = "uniform"
    reads: ClassVar[PredictionKind] = "leave_one_out"
    """The kind of prediction that `reverse` plugs in."""
    rates_read: ClassVar[PredictionKind] = "log_score"
    """The kind of prediction that `rates` takes, as ratios s."""

    @property
    def mask_token_id(self) -> None:
        """Return None: uniform noise has no mask."""
        return None

    def prior(self, like: Tensor, rng: RandomSource, vocab_size: int) -> Tensor:
        """Return floor(V u) with u uniform in (0, 1) of 52 bits, int64 like `like`."""
        u = rng.uniform(Stream.INITIAL, like)
        return (u * vocab_size).long().clamp_(max=vocab_size - 1)

    def noised(self, x: Tensor, alpha: float, rng: RandomSource, vocab_size: int) -> Tensor:
        """Draw x_t given x0 = x: each token stays with probability alpha, else `prior`."""
        kept = rng.uniform(Stream.START, x) < alpha
        return torch.where(kept, x, self.prior(x, rng, vocab_size))

    def convert(
        self,
        values: Tensor,
        x: Tensor,
        alpha: Tensor,
        source: PredictionKind,
        target: PredictionKind,
    ) -> Tensor:
        """Convert one kind of prediction into another; see `conversions.convert_uniform`."""
        return convert_uniform(values, x, alpha, source, target)

    def noise(self, like: Tensor) -> Tensor:
        """Return the law pi = 1 / S, [S] in the type of `like` [..., S]."""
        return like.new_full((like.shape[-1],), 1.0 / like.shape[-1])

    def clean_law(self, loo: Tensor, x: Tensor) -> Tensor:
        """Return the law that `reverse` plugs in: loo as it is, also where x holds a token."""
        return loo

    def forward(self, law: Tensor, alpha: Tensor) -> Tensor:
        """Return the law of x_t when x0 has `law`, alpha law + (1 - alpha) / S."""
        a = alpha.to(law.dtype).expand(law.shape[:-1]).unsqueeze(-1)
        return a * law + (1.0 - a) / law.shape[-1]

    def reverse(self, loo: Tensor, x: Tensor, alpha_t: Tensor, alpha_s: Tensor) -> Tensor:
        """Return the law of x_s given x_t from the leave-one-out law plugged in for x0, [..., S].

            q(y) ~ (r 1[y = x] + (1 - r) / S) (alpha_s loo(y) + (1 - alpha_s) / S),
            r = alpha_t / alpha_s

        Exact for one position; UDLM and Duo.  The final step is alpha_s = 1.

        Args:
            loo: leave-one-out law of the clean token.
            x: x_t, int64 [...].
            alpha_t: level of x_t, broadcast to [...].
            alpha_s: level of x_s, >= alpha_t, > 0.
        """
        a, s, size = per_position(alpha_t, x, loo), per_position(alpha_s, x, loo), loo.shape[-1]
        ratio = a / s
        weights = (ratio * one_hot(x, loo) + (1.0 - ratio) / size) * (s * loo + (1.0 - s) / size)
        total = weights.sum(-1, keepdim=True)
        # Without noise left x stays; where the law excludes x, the law decides.
        return (weights / total).where(total > 0, loo)

    def mixture(self, post: Tensor, x: Tensor, alpha_t: Tensor, alpha_s: Tensor) -> Tensor:
        """Return the same law from the posterior: sum_k post(k) q(y | x_t = x, x0 = k), [..., S].

            q(y | x, k) = (r 1[y = x] + (1 - r) / S) (alpha_s 1[y = k] + (1 - alpha_s) / S) / q_k,
            q_k = alpha_t 1[x = k] + (1 - alpha_t) / S

        Arguments as in `reverse`.
        """
        a, s, size = per_position(alpha_t, x, post), per_position(alpha_s, x, post), post.shape[-1]
        ratio, here = a / s, one_hot(x, post)
        weighted = post / (a * here + (1.0 - a) / size)
        total = weighted.sum(-1, keepdim=True)
        kernel = ratio * here + (1.0 - ratio) / size
        return kernel * (s * weighted + (1.0 - s) / size * total)

    def reverse_rates(self, score: Tensor, x: Tensor, beta: Tensor) -> Tensor:
        """Return the rates backwards in time: beta / S s(y), from ratios s; 0 at x, [..., S]."""
        return off_diagonal(per_position(beta, x, score) / score.shape[-1] * score, x)

    def rates(self, score: Tensor, x: Tensor, alpha: Tensor, slope: Tensor) -> Tensor:
        """Return `reverse_rates` at beta = slope / alpha, slope = -alpha'(t)."""
        return self.reverse_rates(score, x, slope / alpha.clamp_min(_LEAST))

    def noising_rates(self, x: Tensor, alpha: Tensor, slope: Tensor, like: Tensor) -> Tensor:
        """Return `forward_rates` at beta = slope / alpha."""
        return self.forward_rates(x, slope / alpha.clamp_min(_LEAST), like)

    def unit_slope(self, alpha: Tensor) -> Tensor:
        """Return -alpha' on the clock sigma = -ln alpha, on which noise comes at rate 1: alpha."""
        return alpha

    def level_after(self, alpha: Tensor, wait: Tensor) -> Tensor:
        """Return the level, up to 1, at which that clock is `wait` further on: alpha e^wait."""
        return (alpha * torch.exp(wait)).clamp(max=1.0)

    def exit_bound(self, alpha: Tensor, slope: Tensor, size: int) -> Tensor:
        """Return the largest rate of leaving a token: slope / (1 - alpha) + beta (S - 1) / S.

        beta / S times the sum of s(y) over y != x, s(y) = (alpha loo(y) + b) / (alpha loo(x) + b),
        is largest at loo(x) = 0.
        """
        return slope / (1.0 - alpha) + slope / alpha * (1.0 - 1.0 / size)

    def exit_integral(self, alpha_t: Tensor, alpha_s: Tensor, size: int) -> Tensor:
        """Return the integral of `exit_bound` from t to s."""
        unmasking = torch.log1p(-alpha_t) - torch.log1p(-alpha_s)
        return unmasking + torch.log(alpha_s / alpha_t) * (1.0 - 1.0 / size)

    def forward_rates(self, x: Tensor, beta: Tensor, like: Tensor) -> Tensor:
        """Return the rates forwards in time: beta / S; 0 at x, [..., S]."""
        size = like.shape[-1]
        return off_diagonal((per_position(beta, x, like) / size).expand(like.shape), x)

"""Mask each token with probability 1 - alpha: the absorbing process.

    q_t(y | x0) = alpha 1[y = x0] + (1 - alpha) 1[y = mask]

Laws are tables [..., V] with the mask among their columns; p0 is the law of the clean token, 0 in
the mask column, and is read at masked positions only.  beta = -alpha' / alpha is the rate of
masking, c = -alpha' / (1 - alpha) that of unmasking.  Austin et al. 2021, arXiv:2107.03006; Sahoo
et al. 2024, arXiv:2406.07524.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dlm_sampling.ops import Stream
from dlm_sampling.processes.conversions import carried_over, convert_absorbing
from dlm_sampling.processes.tables import one_hot, per_position
from dlm_sampling.types import NoiseKind, PredictionKind, RandomSource


@dataclass(frozen=True)
class Absorbing:
    """Describe masking, with the laws that follow from it.

    Fields:
        mask_token_id: the column of the mask.
    """

    mask_token_id: int

    name: ClassVar[NoiseKind] = "absorbing"
    reads: ClassVar[PredictionKind] = "posterior"
    """The kind of prediction that `reverse` plugs in."""
    rates_read: ClassVar[PredictionKind] = "posterior"
    """The kind of prediction that `rates` takes."""

    def prior(self, like: Tensor, rng: RandomSource, vocab_size: int) -> Tensor:
        """Return masks everywhere, int64 like `like`."""
        return torch.full_like(like, self.mask_token_id)

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
        """Convert one kind of prediction into another; see `conversions.convert_absorbing`."""
        return convert_absorbing(values, x, alpha, source, target, self.mask_token_id)

    def noise(self, like: Tensor) -> Tensor:
        """Return the law pi = 1[y = mask], [V] in the type of `like` [..., V]."""
        pi = like.new_zeros(like.shape[-1])
        pi[self.mask_token_id] = 1.0
        return pi

    def clean_law(self, p0: Tensor, x: Tensor) -> Tensor:
        """Return the law of x0 given x_t: p0 at masks, the token itself elsewhere, [..., V]."""
        return carried_over(p0, x, self.mask_token_id)

    def forward(self, law: Tensor, alpha: Tensor) -> Tensor:
        """Return the law of x_t when x0 has `law`, alpha law + (1 - alpha) pi."""
        a = alpha.to(law.dtype).expand(law.shape[:-1]).unsqueeze(-1)
        return a * law + (1.0 - a) * self.noise(law)

    def reverse(self, p0: Tensor, x: Tensor, alpha_t: Tensor, alpha_s: Tensor) -> Tensor:
        """Return the law of x_s given x_t, the ancestral step, [..., V].

            q(y | mask) = (alpha_s - alpha_t) / (1 - alpha_t) p0(y);   a token stays

        Args:
            p0: law of the clean token.
            x: x_t, int64 [...].
            alpha_t: level of x_t, < 1, broadcast to [...].
            alpha_s: level of x_s, >= alpha_t.
        """
        a, s = per_position(alpha_t, x, p0), per_position(alpha_s, x, p0)
        jump = (s - a) / (1.0 - a)
        return jump * self.clean_law(p0, x) + (1.0 - jump) * one_hot(x, p0)

    def reverse_rates(self, p0: Tensor, x: Tensor, c: Tensor) -> Tensor:
        """Return the rates backwards in time: c p0(y) at a mask, 0 elsewhere; [..., V]."""
        masked = (x == self.mask_token_id).unsqueeze(-1)
        return (per_position(c, x, p0) * masked) * self.clean_law(p0, x)

    def rates(self, p0: Tensor, x: Tensor, alpha: Tensor, slope: Tensor) -> Tensor:
        """Return `reverse_rates` at c = slope / (1 - alpha), slope = -alpha'(t); alpha < 1."""
        return self.reverse_rates(p0, x, slope / (1.0 - alpha))

    def noising_rates(self, x: Tensor, alpha: Tensor, slope: Tensor, like: Tensor) -> Tensor:
        """Return `forward_rates` at beta = slope / alpha; alpha > 0."""
        return self.forward_rates(x, slope / alpha, like)

    def unit_slope(self, alpha: Tensor) -> Tensor:
        """Return -alpha' = 1 - alpha on the clock -ln(1 - alpha), which reveals masks at rate 1."""
        return 1.0 - alpha

    def level_after(self, alpha: Tensor, wait: Tensor) -> Tensor:
        """Return the level at which that clock is `wait` further on: 1 - (1 - alpha) e^-wait."""
        return 1.0 - (1.0 - alpha) * torch.exp(-wait)

    def exit_bound(self, alpha: Tensor, slope: Tensor, size: int) -> Tensor:
        """Return the largest rate of leaving a mask, slope / (1 - alpha): every mask has it."""
        return slope / (1.0 - alpha)

    def exit_integral(self, alpha_t: Tensor, alpha_s: Tensor, size: int) -> Tensor:
        """Return the integral of `exit_bound` from t to s: ln((1 - alpha_t) / (1 - alpha_s))."""
        return torch.log1p(-alpha_t) - torch.log1p(-alpha_s)

    def forward_rates(self, x: Tensor, beta: Tensor, like: Tensor) -> Tensor:
        """Return the rates forwards in time: beta from a token to the mask, [..., V]."""
        written = (x != self.mask_token_id).unsqueeze(-1)
        return per_position(beta, x, like) * self.noise(like) * written

"""Compute the laws of planned denoising: a planner finds the noise, a denoiser replaces it.

    R(x -> y) = c rho_i p(y),  y != x;   rho_i = P(position i is noise | x), p = P(x0_i | x, noise)

The same rates as the flow velocity, since post(y) = rho p(y) for y != x.  A uniform denoiser is a
planner itself: with b = (1 - alpha) / S,

    rho = b / (alpha loo(x) + b),    loo(x) = P(x0_i = x | x without i)

Liu et al. 2024, "Think While You Generate", arXiv:2410.06264.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dlm_sampling.ops import Stream
from dlm_sampling.processes.tables import off_diagonal
from dlm_sampling.processes.uniform import Uniform
from dlm_sampling.types import PredictionKind, RandomSource

_LEAST = 1e-12  # of alpha: below it the ratios of a score differ from 1 by rounding only


@dataclass(frozen=True)
class UniformTokens(Uniform):
    """Describe uniform noise over the tokens of a masked model, all ids but the mask.

    It is the noise of a canvas of tokens that a planner scores and a masked denoiser sees as masks.

    Fields:
        mask: the id that is no token.
    """

    mask: int

    def prior(self, like: Tensor, rng: RandomSource, vocab_size: int) -> Tensor:
        """Return floor((V - 1) u), the ids from the mask on one higher, int64 like `like`."""
        u = rng.uniform(Stream.INITIAL, like)
        token = (u * (vocab_size - 1)).long().clamp_(max=vocab_size - 2)
        return token + (token >= self.mask)


def planned_rates(p: Tensor, noise_prob: Tensor, x: Tensor, c: Tensor) -> Tensor:
    """Return the rates c rho p(y), 0 at x, [..., V]; noise_prob and c broadcast to [...].

    With `jumps.last_event_law` this is tau-leaping; with `jumps.mixture_law` and J in place of c,
    the integrated jump.
    """
    rate = (c.to(p.dtype) * noise_prob.to(p.dtype)).expand(x.shape).unsqueeze(-1)
    return off_diagonal(rate * p, x)


def clean_probability(prob: Tensor, alpha: Tensor, size: int, kind: PredictionKind) -> Tensor:
    """Return loo(x), the leave-one-out probability of the current token, from the network's own.

        posterior      b post(x) / (b post(x) + (alpha + b) (1 - post(x)))
        leave_one_out  loo(x)
        log_score      max{1 / sum s - b, 0} / alpha

    Args:
        prob: softmax of the network's output at the current token, [...]; 1 / sum s for scores.
        alpha: level that the network was asked at, in [0, 1), broadcast to [...].
        size: symbols S.
        kind: the kind of prediction that the network makes.
    """
    return _CLEAN[kind](prob, alpha, (1.0 - alpha) / size)


def _from_posterior(prob: Tensor, alpha: Tensor, b: Tensor) -> Tensor:
    here = b * prob
    return here / (here + (alpha + b) * (1.0 - prob))


def _from_leave_one_out(prob: Tensor, alpha: Tensor, b: Tensor) -> Tensor:
    return prob


def _from_score(prob: Tensor, alpha: Tensor, b: Tensor) -> Tensor:
    # At alpha = 0 every ratio is 1 and says nothing: the uniform law then, not rounding / 0.
    known = (prob - b).clamp_min(0.0) / alpha.clamp_min(_LEAST)
    return torch.where(alpha > _LEAST, known, b).clamp(max=1.0)


_CLEAN: dict[PredictionKind, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "posterior": _from_posterior,
    "leave_one_out": _from_leave_one_out,
    "log_score": _from_score,
}


def noise_from_clean(clean: Tensor, alpha: Tensor, size: int) -> Tensor:
    """Return P(noise) = b / (alpha loo(x) + b) from loo(x) [...], alpha < 1 broadcast to [...]."""
    b = (1.0 - alpha) / size
    return b / (alpha * clean + b)


def level_of(clean: Tensor, where: Tensor, alpha: Tensor, size: int, iterations: int = 3) -> Tensor:
    """Estimate the clean share of a canvas without a clock, [B], from loo(x) [B, L].

        alpha <- (alpha + (1 + sum_i (1 - rho_i(alpha))) / (n + 2)) / 2,    `iterations` times

    Undamped this is expectation-maximisation for the weight of the clean part in the likelihood
    prod_i (alpha loo(x_i) + (1 - alpha) / S), with a clean and a noisy position added to the n.
    Without these two, the plain 1 - sum rho / n, nothing leaves alpha = 0, and on a short canvas
    noise that looks likely by chance takes alpha to 1.

    Args:
        clean: loo(x), float64 [B, L].
        where: bool [B, L], positions that count.
        alpha: first value of the iteration, in [0, 1), float64 [B].
        size: symbols S.
        iterations: number of iterations.
    """
    count = where.sum(1)
    for _ in range(iterations):
        noise = noise_from_clean(clean, alpha.unsqueeze(1), size).masked_fill(~where, 0.0)
        alpha = 0.5 * (alpha + (1.0 + count - noise.sum(1)) / (count + 2.0))
    return alpha

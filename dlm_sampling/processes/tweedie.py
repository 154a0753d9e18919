"""Compute the analytic (Tweedie) step: the exact reversal of one position's noise.

    dsigma = sigma_t - sigma_s = ln(alpha_s / alpha_t)
    uniform:    P(y) ~ [e^dsigma s(y) - (e^dsigma - 1) / S sum s]
                * (e^-dsigma 1[y = x] + (1 - e^-dsigma) / S)
    absorbing:  P(y) ~ s(y) e^dsigma (1 - e^-dsigma) at a mask,  P(mask) ~ e^dsigma s(mask)
                + (1 - e^dsigma) sum s;  tokens stay

Equal to the plug-in reverse step for scores that belong to a law; a network's scores need not, and
then its learned time scale shows.  Lou et al. 2024, arXiv:2310.16834, theorem 4.2.
"""

from __future__ import annotations

from torch import Tensor

from dlm_sampling.processes.tables import normalised, one_hot, per_position


def tweedie_uniform(score: Tensor, x: Tensor, alpha_t: Tensor, alpha_s: Tensor) -> Tensor:
    """Return the law of x_s, [..., S], from ratios s; alpha_s = 1 is the final denoising step."""
    ratio = per_position(alpha_s / alpha_t, x, score)
    size = score.shape[-1]
    staggered = score * ratio - (ratio - 1.0) / size * score.sum(-1, keepdim=True)
    return normalised(staggered * (one_hot(x, score) / ratio + (1.0 - 1.0 / ratio) / size))


def tweedie_absorbing(
    score: Tensor, x: Tensor, alpha_t: Tensor, alpha_s: Tensor, mask_token_id: int
) -> Tensor:
    """Return the law of x_s, [..., V], from ratios s; at a mask s(mask) = 1."""
    ratio = per_position(alpha_s / alpha_t, x, score)
    masked = (x == mask_token_id).unsqueeze(-1)
    staggered = score * ratio
    staggered[..., mask_token_id] += ((1.0 - ratio) * score.sum(-1, keepdim=True)).squeeze(-1)
    kernel = one_hot(x, score) / ratio + (1.0 - 1.0 / ratio) * masked
    return normalised(staggered * kernel).where(masked, one_hot(x, score))

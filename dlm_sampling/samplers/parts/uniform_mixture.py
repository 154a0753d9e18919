"""Draw the reverse step of uniform noise as a mixture: one read of the logits, and few draws.

    q(y) = [ w 1[y = x] + A loo(y) + B ] / Z,   r = alpha_t / alpha_s
    A = alpha_s (1 - r) / S,   B = (1 - alpha_s) (1 - r) / S^2
    w = r (alpha_s loo(x) + (1 - alpha_s) / S),   Z = w + A + S B

With loo(x), one number per position, it is known who stays, who is drawn from the network's law
without x, and who gets a uniform token.  In most steps most positions stay; the table of q, S
numbers per position, is never made.  The law is that of `processes.Uniform.reverse`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dlm_sampling.ops import Stream
from dlm_sampling.types import Draw, DrawRecord, Prediction, RandomSource


class Weights(NamedTuple):
    """Hold the parts of q at every position, float64 [B, L]."""

    stay: Tensor  # probability of x itself, from all three parts
    model: Tensor  # probability that a token other than x comes from the network's law
    scale: Tensor  # A / Z
    floor: Tensor  # B / Z


def leave_one_out_here(p: Tensor, alpha: Tensor, size: int, *, posterior: bool) -> Tensor:
    """Return loo(x) from the network's probability p of the current token, like p.

    loo(x) = p b / (p b + (1 - p) (alpha + b)) from a posterior, b = (1 - alpha) / S.
    """
    if not posterior:
        return p
    b = (1.0 - alpha) / size
    return p * b / (p * b + (1.0 - p) * (alpha + b))


def weights(here: Tensor, alpha_t: Tensor, alpha_s: Tensor, size: int) -> Weights:
    """Return the parts of q from here = loo(x); all broadcast."""
    ratio = alpha_t / alpha_s
    a = alpha_s * (1.0 - ratio) / size
    b = (1.0 - alpha_s) * (1.0 - ratio) / size**2
    w = ratio * (alpha_s * here + (1.0 - alpha_s) / size)
    z = w + a + size * b
    return Weights((w + a * here + b) / z, a * (1.0 - here) / z, a / z, (b / z).expand(z.shape))


def reverse_by_mixture(
    prediction: Prediction,
    x: Tensor,
    where: Tensor,
    alpha_t: Tensor,
    alpha_s: Tensor,
    size: int,
    rng: RandomSource,
) -> Draw:
    """Draw x_s at `where` (bool [B, L]) from the reverse law of uniform noise.

    Args:
        prediction: of x; its `direct` must hold.
        x: x_t, int64 [B, L].
        where: positions to draw.
        alpha_t: level of x_t, float64 [B].
        alpha_s: level of x_s, like alpha_t.
        size: S.
        rng: random numbers of the step.

    Returns:
        A `Draw` with the log-probability of the whole mixture; log_confidence and entropy are those
        of the network's law where a token was drawn from it.
    """
    a, s = alpha_t.unsqueeze(1), alpha_s.unsqueeze(1)
    p = prediction.log_prob_of(x, where, tempered=True).double().exp()
    here = leave_one_out_here(p, a, size, posterior=prediction.kind == "posterior")
    part = weights(here, a, s, size)
    u = rng.uniform(Stream.COMMIT, x)
    modelled = where & (u >= part.stay) & (u < part.stay + part.model)
    replaced = where & (u >= part.stay + part.model)
    draw = prediction.draw(modelled, rng, exclude=x)
    noise = other_token(x, size, rng)
    # Odds of y against all tokens but x: the same in the posterior as in the leave-one-out law.
    # A network that is certain of x to rounding, p = 1, leaves nothing for any other token.
    others = (1.0 - p).masked_fill(p >= 1.0, torch.inf)
    odds = prediction.log_prob_of(noise, replaced, tempered=True).double().exp() / others
    odds = torch.where(modelled, draw.logprob.double().exp(), odds)
    chance = part.scale * (1.0 - here) * odds + part.floor
    logprob = torch.where(modelled | replaced, chance, part.stay).log().masked_fill(~where, 0.0)
    token = torch.where(modelled, draw.token, torch.where(replaced, noise, x))
    return DrawRecord.of(draw)._replace(token=token, logprob=logprob)


def other_token(x: Tensor, size: int, rng: RandomSource) -> Tensor:
    """Draw a uniform token other than x, int64 like x."""
    u = rng.uniform(Stream.INITIAL, x, 1)
    return (x + 1 + (u * (size - 1)).long().clamp_(max=max(size - 2, 0))) % size

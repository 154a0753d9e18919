"""Leave tokens out of a law by rules that keep no head of it, and change logits by their canvas.

    top-n-sigma   x(v) >= max x - n std x, over the finite logits
    typical       the tokens of least |-ln p(v) - H|, as few as reach the mass, lowest ids first
    eta           p(v) > min(e, sqrt(e) exp(-H)), and the most probable token

with the law p and its entropy H as the filters before left them.  What passes is not a head of the
order of the logits, so a law like this is made as a table of its own, which is then drawn from.
These are torch's: there are no kernels for them.

Meister et al. 2022, arXiv:2202.00666; Hewitt et al. 2022, arXiv:2210.15191; Tang et al. 2024,
arXiv:2411.07641.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from dlm_sampling.ops.filters import truncate
from dlm_sampling.ops.laws import refuse_lawless
from dlm_sampling.ops.temperature import Temperature, inverse_temperature
from dlm_sampling.ops.vocabulary import allowed_ids
from dlm_sampling.types import TokenLaw

Adjust = Callable[[Tensor, Tensor], Tensor]
"""Changes logits [r, V] of the draws number int64 [r], before anything else: penalties."""


def reshaped_logits(
    logits: Tensor,
    law: TokenLaw,
    temperature: Temperature,
    adjust: Adjust | None,
    first: int,
    check: bool,
) -> Tensor:
    """Return logits [r, V] of the draws number `first` and on as a token law leaves them.

    Args:
        logits: of the model, [r, V].
        law: all its filters are read, and its suppressed ids.
        temperature: > 0, one number or [r].
        adjust: changes the logits first, or None.
        first: number of the first row among the draws of a call.
        check: refuse rows that define no law.

    Raises:
        NoLawError: with `check`, a row holds NaN or +inf, or nothing but -inf.
    """
    banned = allowed_ids(logits.shape[1], tuple(law.suppressed), logits.device).suppressed.ids
    out = logits.index_fill(1, banned, -math.inf)
    if check:
        refuse_lawless(out.amax(-1), first)  # filters would drop a NaN in silence
    if adjust is not None:
        draws = torch.arange(first, first + len(logits), device=logits.device)
        out = adjust(out, draws).index_fill(1, banned, -math.inf)
    out = passing(out, law, temperature)
    if check:
        refuse_lawless(out.amax(-1), first)
    return out


def passing(logits: Tensor, law: TokenLaw, temperature: Temperature) -> Tensor:
    """Return a copy of logits [r, V] with -inf at every token that does not pass the filters.

    Args:
        logits: suppressed ids hold -inf.
        law: all its filters are read.
        temperature: > 0, one number or [r].

    Returns:
        [r, V]; at least one token of a row with a law is left.
    """
    out = logits.clone()
    if law.top_n_sigma is not None:
        out.masked_fill_(~within_sigmas(logits, law.top_n_sigma), -math.inf)
    if law.filters:
        peak, inverse = out.amax(-1), inverse_temperature(temperature, out.dtype)
        weight = ((out - peak[:, None]) * inverse).exp()
        truncate(weight, out, peak, law, inverse)
        out.masked_fill_(weight == 0.0, -math.inf)
    for rule, number in ((typical, law.typical_p), (above_eta, law.eta_cutoff)):
        if number is not None:
            log_p = (out * inverse_temperature(temperature, out.dtype)).log_softmax(-1)
            out.masked_fill_(~rule(log_p, number), -math.inf)
    return out


def within_sigmas(logits: Tensor, n: float) -> Tensor:
    """Return which logits are at most n standard deviations below the largest, bool [r, V]."""
    finite = logits > -math.inf
    count = finite.sum(-1, keepdim=True).clamp_min(1)
    mean = logits.where(finite, 0.0).sum(-1, keepdim=True) / count
    square = (logits - mean).where(finite, 0.0).square().sum(-1, keepdim=True) / count
    return logits >= logits.amax(-1, keepdim=True) - n * square.sqrt()


def entropy(log_p: Tensor) -> Tensor:
    """Return the entropy of laws in nats, [r, 1]."""
    return -(log_p.exp() * log_p.where(log_p > -math.inf, 0.0)).sum(-1, keepdim=True)


def typical(log_p: Tensor, mass: float) -> Tensor:
    """Return which tokens are the most typical ones that reach `mass`, bool [r, V]."""
    possible = log_p > -math.inf
    if mass >= 1.0:
        return possible
    distance = (-log_p - entropy(log_p)).abs().where(possible, math.inf)
    order = torch.argsort(distance, dim=-1, stable=True)
    p = log_p.exp().gather(-1, order).double()
    before = p.cumsum(-1) - p
    first = torch.arange(log_p.shape[-1], device=log_p.device) == 0
    return torch.zeros_like(possible).scatter(-1, order, (before < mass) | first) & possible


def above_eta(log_p: Tensor, epsilon: float) -> Tensor:
    """Return which tokens are more probable than the cutoff, or the most probable; bool [r, V]."""
    floor = (0.5 * math.log(epsilon) - entropy(log_p)).clamp(max=math.log(epsilon))
    return (log_p > floor) | (log_p == log_p.amax(-1, keepdim=True))

"""Compute the posterior of samplers that mask tokens again: as probabilities, table and step.

    x_t = m:   q(v) = p0(v) (alpha_s - (1 - sigma) alpha_t) / (1 - alpha_t)
               q(m) = (1 - alpha_s - sigma alpha_t) / (1 - alpha_t)
    x_t != m:  q(x_t) = 1 - sigma,   q(m) = sigma

Wang et al. 2025, arXiv:2503.00307, eq. 4-5.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dlm_sampling.samplers.base import reveal
from dlm_sampling.types import Canvas, Draw, Step


class Rates(NamedTuple):
    """Hold alpha_t and alpha_s [B, 1] and the probability of masking again, [B, 1] or [B, L]."""

    alpha_t: Tensor
    alpha_s: Tensor
    sigma: Tensor


def sigma_max(alpha_t: Tensor, alpha_s: Tensor) -> Tensor:
    """Return the largest sigma, min{1, (1 - alpha_s) / alpha_t}, which is 1 at alpha_t = 0."""
    return ((1.0 - alpha_s) / alpha_t).nan_to_num(nan=1.0, posinf=1.0).clamp(max=1.0)


def unmask_prob(rates: Rates) -> Tensor:
    """Return the probability of writing a mask, (alpha_s - (1 - sigma) alpha_t) / (1 - alpha_t)."""
    return (rates.alpha_s - (1.0 - rates.sigma) * rates.alpha_t) / (1.0 - rates.alpha_t)


def reveal_and_remask(canvas: Canvas, where: Tensor, remask: Tensor, draw: Draw) -> Step:
    """Write the drawn tokens at `where`, put masks at `remask`; bool [B, L], disjoint."""
    step = reveal(canvas, where, draw)
    tokens = step.tokens.masked_fill(remask, canvas.mask)
    return step._replace(tokens=tokens, unknown=step.unknown | remask)


def remask_probs(canvas: Canvas, log_p0: Tensor, rates: Rates) -> Tensor:
    """Return the posterior as a table [B, L, V]; negative weights count as 0, rows sum to 1."""
    one_hot = torch.nn.functional.one_hot
    shape = canvas.tokens.shape
    mask = one_hot(torch.full_like(canvas.tokens, canvas.mask), log_p0.shape[-1]).to(log_p0.dtype)
    stay = one_hot(canvas.tokens, log_p0.shape[-1]).to(log_p0.dtype)
    p = unmask_prob(rates).expand(shape).unsqueeze(-1)
    sigma = rates.sigma.expand(shape).unsqueeze(-1)
    masked = (p * log_p0.exp()).clamp_min(0.0) + ((1.0 - p) * mask).clamp_min(0.0)
    kept = ((1.0 - sigma) * stay).clamp_min(0.0) + sigma * mask
    law = torch.where(canvas.eligible.unsqueeze(-1), masked, kept)
    law = torch.where(canvas.editable.unsqueeze(-1), law, stay)
    return law / law.sum(-1, keepdim=True)

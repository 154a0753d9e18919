"""The positions that may be written together under a bound on their joint entropy.

    order the positions by an error proxy, the smallest first;  H_i: entropies in that order
    take the largest k >= 1 with  sum_{i <= k} H_i - max_{i <= k} H_i <= gamma

The left side bounds the joint entropy that independent draws ignore.  Ben-Hamu et al. 2025,
arXiv:2505.24857.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def entropy_bound_positions(
    error: Tensor, entropy: Tensor, eligible: Tensor, gamma: float
) -> Tensor:
    """The longest head in order of `error` whose entropy, less its largest, is at most gamma.

    Args:
        error: [B, L], smaller goes first; ties go to the lowest position.
        entropy: [B, L], nats.
        eligible: bool [B, L].
        gamma: >= 0, nats; 0 gives one position, and further ones only if their entropy is exactly
            0.

    Returns:
        bool [B, L], a subset of `eligible`; at least one position in a row that has any.
    """
    order = error.masked_fill(~eligible, math.inf).argsort(dim=1, stable=True)
    h = entropy.double().clamp_min(0.0).masked_fill(~eligible, 0.0).gather(1, order)
    # sum - max without cancellation: each adds the smaller of itself and the largest before it.
    largest = torch.nn.functional.pad(h.cummax(1).values[:, :-1], (1, 0))
    within = torch.minimum(h, largest).cumsum(1) <= gamma
    return torch.zeros_like(eligible).scatter(1, order, within) & eligible

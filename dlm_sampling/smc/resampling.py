"""Resample particles by their weights, in log space, within groups of K."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dlm_sampling.ops.philox import Rng, Stream


def normalised(log_weights: Tensor) -> Tensor:
    """Return the weights of each group, float64 [G, K], that sum to one.

    Groups whose weights are all zero get equal weights: nothing is known of them.

    Args:
        log_weights: float64 [G, K], up to a constant per group; -inf is weight 0.
    """
    lost = (log_weights == -math.inf).all(1, keepdim=True)
    return log_weights.masked_fill(lost, 0.0).softmax(1)


def effective_size(log_weights: Tensor) -> Tensor:
    """Return the effective sample size 1 / sum w^2 of each group, float64 [G], in [1, K]."""
    return 1.0 / normalised(log_weights).square().sum(1)


def systematic(log_weights: Tensor, uniform: Tensor) -> Tensor:
    """Return the ancestors of each particle, int64 [G, K], in rising order.

    Particle j descends from the i with  F(i - 1) < (j + u) / K <= F(i),  F the cumulated weights,
    so that i has floor(K w_i) or one more descendants, K w_i on average.  Kitagawa 1996.

    Args:
        log_weights: float64 [G, K].
        uniform: float64 [G], in (0, 1).
    """
    count = log_weights.shape[1]
    edges = normalised(log_weights).cumsum(1)
    edges = edges / edges[:, -1:]
    points = (torch.arange(count, device=uniform.device) + uniform.unsqueeze(1)) / count
    return torch.searchsorted(edges, points).clamp(max=count - 1)


def multinomial(log_weights: Tensor, uniform: Tensor) -> Tensor:
    """Return independent ancestors by the weights, int64 [G, n]; uniform float64 [G, n]."""
    edges = normalised(log_weights).cumsum(1)
    edges = edges / edges[:, -1:]
    return torch.searchsorted(edges, uniform).clamp(max=log_weights.shape[1] - 1)


def group_uniform(seeds: tuple[int, ...], step: int, device: torch.device, sub: int = 0) -> Tensor:
    """Return a uniform of each group's own seed at a step, float64 [G]."""
    rng = Rng.from_seeds(seeds, device=device)
    rng = rng.with_step(torch.full_like(rng.step, step))
    return rng.uniform(Stream.RESAMPLE, rng.keys, sub)

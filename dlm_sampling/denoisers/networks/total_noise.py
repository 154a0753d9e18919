"""Compute total noise sigma(t), the input of time-conditioned diffusion transformers."""

from __future__ import annotations

import math

import torch
from torch import Tensor

EPS = 1e-3


def total_noise(t: Tensor) -> Tensor:
    """Compute sigma(t) = -log(1 - (1 - eps) t), the log-linear schedule; [B] -> [B], float32."""
    return -torch.log1p(-(1 - EPS) * t.double()).float()


def clipped_noise(t: Tensor) -> Tensor:
    """Compute sigma(t) = min(-log(1 - t), -log eps), as BD3-LM takes it; [B] -> [B], float32."""
    return -torch.log1p(-t.double()).clamp_min(math.log(EPS)).float()


def geometric_noise(t: Tensor, low: float, high: float) -> Tensor:
    """Compute sigma(t) = low^(1 - t) high^t, the geometric schedule; [B] -> [B], float32."""
    return (low ** (1 - t.double()) * high ** t.double()).float()

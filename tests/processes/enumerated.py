"""Laws of one position by enumeration of (x0, x_s, x_t), written out without the library."""

from __future__ import annotations

import torch
from torch import Tensor


def kernel(alpha: float, noise: Tensor) -> Tensor:
    """K[i, j] = alpha 1[i = j] + (1 - alpha) pi(j): keep a token or replace it by noise."""
    return alpha * torch.eye(len(noise), dtype=torch.float64) + (1.0 - alpha) * noise


def given_noisy(loo: Tensor, x: Tensor, noise: Tensor, alpha_t: float, alpha_s: float) -> Tensor:
    """P(x0 = k, x_s = y | x_t = x), [..., V, V], x0 from the law `loo` [..., V]."""
    before, step = kernel(alpha_s, noise), kernel(alpha_t / alpha_s, noise)
    joint = loo.unsqueeze(-1) * before * step.T[x].unsqueeze(-2)
    return joint / joint.sum((-2, -1), keepdim=True)


def ratios(loo: Tensor, x: Tensor, noise: Tensor, alpha: float) -> Tensor:
    """p_t(y) / p_t(x), [..., V]."""
    noised = loo @ kernel(alpha, noise)
    return noised / noised.gather(-1, x.unsqueeze(-1))


def uniform_noise(size: int) -> Tensor:
    return torch.full((size,), 1.0 / size, dtype=torch.float64)


def mask_noise(size: int, mask: int) -> Tensor:
    return torch.nn.functional.one_hot(torch.tensor(mask), size).double()


def others(table: Tensor, x: Tensor) -> Tensor:
    """The table with 0 in the column of the current token."""
    return table * (torch.arange(table.shape[-1]) != x.unsqueeze(-1))


def filled(leave: Tensor, x: Tensor) -> Tensor:
    """The law that leaves x with these probabilities, read off x, and else stays."""
    here = torch.nn.functional.one_hot(x, leave.shape[-1]).double()
    leave = leave * (1.0 - here)
    return leave + here * (1.0 - leave.sum(-1, keepdim=True))

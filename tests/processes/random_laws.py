"""Random laws and tokens for identities between solvers, which hold to 1e-12."""

from __future__ import annotations

import torch
from torch import Tensor

SIZE, MASK = 5, 4


def laws(seed: int, size: int = SIZE, rows: int = 6) -> tuple[Tensor, Tensor]:
    """Random laws [rows, 3, size] and tokens [rows, 3]."""
    g = torch.Generator().manual_seed(seed)
    p = (2 * torch.randn(rows, 3, size, generator=g, dtype=torch.float64)).softmax(-1)
    return p, torch.randint(size, (rows, 3), generator=g)


def masked(seed: int) -> tuple[Tensor, Tensor]:
    """Random laws without mass at the mask; about every second position is masked."""
    p, x = laws(seed)
    p[..., MASK] = 0.0
    x = torch.where(
        torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) < 0.5, MASK, x
    )
    return p / p.sum(-1, keepdim=True), x


def number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def same(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, atol=1e-12, rtol=0)

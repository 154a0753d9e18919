"""Mix the reverse step with fresh noise on the final prediction: the law of Psi-samplers.

    q(x_s | x_t) = kappa q(x_s | x_t, p) + (1 - kappa) q_s(x_s | x0 ~ q(x0 | x_t, p))

kappa = 1 is the ancestral step; kappa < 1 corrects earlier choices.  The released Duo code,
arXiv:2506.10892 (s-sahoo/duo); marginals stay consistent only if 1 - kappa shrinks with the step.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from dlm_sampling.processes.tables import per_position


class Reversible(Protocol):
    """Define a process whose posterior the mixture can use: `Absorbing` and `Uniform`."""

    def reverse(self, p: Tensor, x: Tensor, alpha_t: Tensor, alpha_s: Tensor, /) -> Tensor:
        """Return the law of x_s given x_t."""
        ...

    def forward(self, law: Tensor, alpha: Tensor, /) -> Tensor:
        """Return the law of x_t given the law of x0."""
        ...


def psi_law(
    process: Reversible,
    p: Tensor,
    x: Tensor,
    alpha_t: Tensor,
    alpha_s: Tensor,
    kappa: Tensor | float,
) -> Tensor:
    """Return the law of x_s, [..., V]; p is the kind of prediction that `process.reverse` reads.

    kappa in [0, 1] is broadcast to [...].
    """
    clean = process.reverse(p, x, alpha_t, torch.ones_like(alpha_t))
    fresh = process.forward(clean, alpha_s)
    kappa = per_position(torch.as_tensor(kappa, dtype=p.dtype, device=p.device), x, p)
    return kappa * process.reverse(p, x, alpha_t, alpha_s) + (1.0 - kappa) * fresh

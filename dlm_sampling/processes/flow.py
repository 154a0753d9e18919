"""Compute the laws of discrete flow matching: the velocity of the mixture path and its jumps.

With kappa = alpha, x = x1 with probability kappa, else noise pi.  The conditional velocity towards
x1 is c (1[y = x1] - 1[y = x]), c = kappa' / (1 - kappa).  One step draws x1 from the posterior,
then, with u(x) = 0,

    u(y) = c 1[y = x1] + d kappa' / (kappa (1 - kappa)) ((1 - kappa) pi(y) + kappa 1[y = x1])
    jump with probability 1 - exp(-h sum u), to y ~ u

d is the weight of the divergence-free term, which moves tokens without changing the marginals.  Gat
et al. 2024, arXiv:2407.15595; the jump as released in the flow_matching library.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dlm_sampling.processes.jumps import last_event_law
from dlm_sampling.processes.tables import off_diagonal, per_position, value_at, with_stay


def conditional_jump_law(
    post: Tensor, x: Tensor, noise: Tensor, towards: Tensor, around: Tensor
) -> Tensor:
    """Return the law of one step that may jump to x1 ~ post or to noise, [..., V], x1 summed out.

        u(y) = towards 1[y = x1] + around pi(y),  u(x) = 0;   jump with 1 - exp(-sum u), to y ~ u

    Args:
        post: law of x1.
        x: current tokens, int64 [...].
        noise: pi, [V] or like post.
        towards: rate of jumping to x1, integrated over the step, broadcast to [...].
        around: the same of being replaced by noise.
    """
    towards, around = per_position(towards, x, post), per_position(around, x, post)
    spread = off_diagonal(around * noise.expand(post.shape), x)
    loose = spread.sum(-1, keepdim=True)
    total = towards + loose
    jump, drift = -torch.expm1(-total), -torch.expm1(-loose)
    here = value_at(post, x)
    away = jump / total * (towards * post + (1.0 - here) * spread)
    staying = torch.where(loose > 0, here * drift * spread / loose, 0.0)
    return with_stay(torch.where(total > 0, away, 0.0) + staying, x)


def shortcut_law(post: Tensor, x: Tensor, alpha_t: Tensor, alpha_s: Tensor) -> Tensor:
    """Return the law of FS-DFM's step: jump with 1 - r^(1 - p(x)), [..., V].

    r = (1 - alpha_s) / (1 - alpha_t).

    The destination has the law p(y) / (1 - p(x)).  The rate is integrated over the step and the
    posterior frozen.  Karimi Monsefi et al. 2025, arXiv:2509.20624.
    """
    hazard = torch.log1p(-alpha_t) - torch.log1p(-alpha_s)
    return last_event_law(post, x, hazard)

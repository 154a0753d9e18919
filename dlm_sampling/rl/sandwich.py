"""Compute SPG's loss: a lower bound is raised for good answers, an upper one lowered for bad ones.

    L = - mean over rows of A l,   l = lower for A >= 0, else w upper + (1 - w) lower

Wang et al. 2025, "SPG: Sandwiched Policy Gradient for Masked Diffusion Language Models",
arXiv:2510.09541.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dlm_sampling.errors import check_real
from dlm_sampling.rl.checks import check_numbers, check_shapes


def spg_loss(lower: Tensor, upper: Tensor, advantages: Tensor, *, mix: float = 0.5) -> Tensor:
    """Return the loss, a scalar.

    Args:
        lower: bounds from below of the rows' log-likelihoods, [B], with a graph: `elbo`.
        upper: bounds from above, [B], with a graph: `upper_bound`.
        advantages: [B].
        mix: w, in [0, 1]; 1 takes the upper bound alone, whose gradient is noisier.

    Raises:
        TypeError: mix is no number, or the others are no tensors.
        ValueError: shapes differ, a value is NaN, or mix is out of range.
    """
    check_shapes("[B]", lower=lower, upper=upper, advantages=advantages)
    check_numbers(infinite=True, lower=lower, upper=upper)
    check_numbers(infinite=False, advantages=advantages)
    check_real("mix", mix)
    if not 0.0 <= mix <= 1.0:
        raise ValueError(f"mix={mix}: must be in [0, 1].")
    bad = mix * upper + (1.0 - mix) * lower
    return -(advantages.detach() * torch.where(advantages < 0.0, bad, lower)).mean()

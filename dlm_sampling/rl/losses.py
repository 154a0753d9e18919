"""Compute the clipped policy-gradient loss of GRPO, and its divergence to a reference.

    L = - mean_i [ min(r_i A_i, clip(r_i, 1 - e, 1 + e) A_i) - beta k3_i ],   r_i = pi_i / old_i
    k3 = exp(ref - new) - (ref - new) - 1 >= 0,   E_pi[k3] = KL(pi | ref)

Shao et al. 2024, "DeepSeekMath", arXiv:2402.03300 (GRPO); Schulman 2020, "Approximating KL
divergence" (k3).
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from dlm_sampling.errors import SamplingWarning


def group_advantages(rewards: Tensor, group: int, *, scale: bool = True) -> Tensor:
    """Return each row's reward less the mean of its group, float like rewards [B].

    Args:
        rewards: [B], rows of a prompt next to each other.
        group: G, rows per prompt.
        scale: divide by the group's standard deviation, as GRPO; d1 and Dr. GRPO do not.

    Raises:
        ValueError: B is no multiple of G, or G < 2.
    """
    if group < 2 or len(rewards) % group:
        raise ValueError(
            f"group={group}: must be at least 2 and divide the {len(rewards)} rows; a group of one "
            "row has no advantage."
        )
    grouped = rewards.view(-1, group)
    advantage = grouped - grouped.mean(1, keepdim=True)
    if scale:
        advantage = advantage / (grouped.std(1, keepdim=True) + 1e-4)
    return advantage.flatten()


def k3_divergence(new: Tensor, reference: Tensor) -> Tensor:
    """Return exp(ref - new) - (ref - new) - 1 >= 0, like new.

    Its mean under the policy is KL(policy | reference), with less variance than new - ref.

    Args:
        new: log-probabilities under the policy, with a graph.
        reference: log-probabilities under the reference, like new.
    """
    gap = reference - new
    return torch.expm1(gap) - gap


class GRPOLoss(NamedTuple):
    """Hold a loss and what to watch of it."""

    loss: Tensor  # scalar, with a graph
    ratio: Tensor  # pi / old, like the log-probabilities, no graph
    clipped: Tensor  # scalar, share of the terms whose ratio was clipped
    divergence: Tensor  # scalar, mean k3; 0 without a reference


def grpo_loss(
    new: Tensor,
    old: Tensor,
    advantages: Tensor,
    where: Tensor,
    *,
    clip: float = 0.2,
    clip_high: float | None = None,
    reference: Tensor | None = None,
    beta: float = 0.0,
) -> GRPOLoss:
    """Return GRPO's loss, the mean over the terms of `where`.

    A term is a token ([B, L]), a step ([B, S]) or a row ([B, 1]): whatever `new` holds.

    Args:
        new: log-probabilities under the policy, with a graph, [B, N].
        old: log-probabilities under the policy that drew the rows, [B, N].
        advantages: [B].
        where: bool [B, N], terms that count.
        clip: e, the ratio is clipped below 1 - e.
        clip_high: the ratio is clipped above 1 + this; None is `clip` (DAPO takes more).
        reference: log-probabilities under the reference, [B, N], or None for no divergence.
        beta: weight of the divergence.

    A log-probability of -inf warns: behind filters (top_p, top_k, min_p) a token that was drawn can
    leave the law as soon as the weights move.  Its ratio is 0, and the term has no gradient.

    Raises:
        ValueError: beta without a reference, or shapes differ.
    """
    if beta != 0.0 and reference is None:
        raise ValueError(f"beta={beta}: needs reference=, the log-probabilities to stay near to.")
    if not new.shape == old.shape == where.shape or advantages.shape != new.shape[:1]:
        raise ValueError(
            f"new, old, where and advantages have shapes {tuple(new.shape)}, {tuple(old.shape)}, "
            f"{tuple(where.shape)} and {tuple(advantages.shape)}: must be [B, N] and [B]."
        )
    lost = where & (torch.isinf(new.detach()) | torch.isinf(old))
    if bool(lost.any()):
        warnings.warn(
            f"{int(lost.sum())} of {int(where.sum())} log-probabilities that count are -inf: the "
            "law has filters, which the token no longer passes. Sample with top_p=1.0 and no "
            "top_k or min_p, or score with law='model'.",
            SamplingWarning,
            stacklevel=2,
        )
    gap = torch.where(where & ~lost, new - old.detach(), torch.where(lost, -torch.inf, 0.0))
    ratio, weight = gap.exp(), advantages.unsqueeze(1)
    bounded = ratio.clamp(1.0 - clip, 1.0 + (clip if clip_high is None else clip_high))
    gain = torch.minimum(ratio * weight, bounded * weight)
    count = where.sum().clamp_min(1)
    divergence = gain.new_zeros(())
    if reference is not None:
        # Outside of `where` both may be -inf, whose gradient would be NaN behind the mask.
        kept, near_to = (x.masked_fill(~where | lost, 0.0) for x in (new, reference.detach()))
        divergence = k3_divergence(kept, near_to).sum() / count
    loss = -torch.where(where, gain, 0.0).sum() / count + beta * divergence
    clipped = ((ratio * weight > bounded * weight) & where).sum() / count
    return GRPOLoss(loss, ratio.detach(), clipped.detach(), divergence.detach())

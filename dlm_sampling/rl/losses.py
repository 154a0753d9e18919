"""Compute the clipped policy-gradient loss of GRPO, and its divergence to a reference.

    L = - mean_i [ min(r_i A_i, clip(r_i, 1 - e, 1 + e) A_i) - beta k3_i ],   r_i = pi_i / old_i
    k3 = exp(ref - new) - (ref - new) - 1 >= 0,   E_pi[k3] = KL(pi | ref)

Shao et al. 2024, "DeepSeekMath", arXiv:2402.03300 (GRPO); Schulman 2020, "Approximating KL
divergence" (k3).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dlm_sampling.errors import SamplingWarning, check_flag, check_real, check_whole
from dlm_sampling.rl.checks import check_numbers, check_shapes, check_weight


def group_advantages(
    rewards: Tensor | Sequence[float], group: int, *, scale: bool = True
) -> Tensor:
    """Return each row's reward less the mean of its group, float [B].

    Args:
        rewards: [B], rows of a prompt next to each other; whole numbers, such as 0 and 1, become
            float32.
        group: G, rows per prompt.
        scale: divide by the group's standard deviation, as GRPO; d1 and Dr. GRPO do not.

    Raises:
        TypeError: group is no whole number.
        ValueError: B is no multiple of G, G < 2, or a reward is no finite number.
    """
    rewards = torch.as_tensor(rewards)
    rewards = rewards if rewards.is_floating_point() else rewards.float()
    check_shapes("[B]", rewards=rewards)
    check_numbers(infinite=False, rewards=rewards)
    check_whole("group", group)
    check_flag("scale", scale)
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

    Raises:
        ValueError: their shapes differ.
    """
    if new.shape != reference.shape:
        raise ValueError(
            f"new {tuple(new.shape)} and reference {tuple(reference.shape)}: must be of one shape."
        )
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
    leave the law as soon as the weights move.  Its ratio is 0, and the term has no gradient; where
    the reference gives -inf, only the divergence of the term is left out.

    Raises:
        TypeError: an argument is of another type; `where` must be bool.
        ValueError: beta without a reference, shapes differ, a value that counts is NaN, an
            advantage is not finite, or clip is not in [0, 1), clip_high or beta negative.
    """
    _check_terms(new, old, advantages, where, reference)
    check_real("clip", clip)
    if not 0.0 <= clip < 1.0:
        raise ValueError(f"clip={clip}: must be in [0, 1); the papers take 0.2.")
    if clip_high is not None:
        check_weight("clip_high", clip_high, zero=True)
    check_weight("beta", beta, zero=True)
    if beta != 0.0 and reference is None:
        raise ValueError(f"beta={beta}: needs reference=, the log-probabilities to stay near to.")
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
        unknown = ~where | lost | torch.isinf(reference)
        kept, near_to = (x.masked_fill(unknown, 0.0) for x in (new, reference.detach()))
        divergence = k3_divergence(kept, near_to).sum() / count
    loss = -torch.where(where, gain, 0.0).sum() / count + beta * divergence
    clipped = ((ratio * weight > bounded * weight) & where).sum() / count
    return GRPOLoss(loss, ratio.detach(), clipped.detach(), divergence.detach())


def _check_terms(
    new: Tensor, old: Tensor, advantages: Tensor, where: Tensor, reference: Tensor | None
) -> None:
    """Check the tensors of `grpo_loss`."""
    terms = {"new": new, "old": old}
    if reference is not None:
        terms["reference"] = reference
    check_shapes("[B, N]", **terms, where=where)
    check_shapes("[B]", advantages=advantages)
    if len(advantages) != len(new):
        raise ValueError(
            f"advantages has {len(advantages)} entries: must be [{len(new)}], as rows."
        )
    if where.dtype != torch.bool:
        raise TypeError(f"where is {where.dtype}: must be bool [B, N]; try where.bool().")
    check_numbers(infinite=True, where=where, **terms)
    check_numbers(infinite=False, advantages=advantages)

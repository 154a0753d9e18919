"""Count how many positions a step writes, and choose positions by score or by confidence."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dlm_sampling.ops import top_k_positions
from dlm_sampling.samplers.base import even_quota
from dlm_sampling.types import Canvas, Clock

_ROUNDING = 1e-9
_NEAR = 1e-5  # dInfer writes what is this close to the best


def floor_share(total: Tensor, share: Tensor) -> Tensor:
    """Return floor(total * share); a product that is a whole number up to rounding stays whole.

    Args: total int64 [B]; share float64 [B], clamped to [0, 1].  Returns int64 [B].
    """
    return (total.double() * share.clamp(0.0, 1.0) + _ROUNDING).floor().long()


def lowest_positions(score: Tensor, among: Tensor, k: Tensor) -> Tensor:
    """Choose exactly the k positions of `among` of lowest score; ties go to the lowest position.

    Args: score [B, L]; among bool [B, L]; k int64 [B], clamped.  Returns bool [B, L].
    """
    return top_k_positions(-score, among, k)


def below_cutoff(score: Tensor, among: Tensor, k: Tensor, slack: float = 0.0) -> Tensor:
    """Choose by a strict cutoff at the score of rank k: score < sorted[k] + slack.

    Ties at the cutoff make it fewer than k, and a slack that survives rounding makes it k + 1.

    Args: score [B, L]; among bool [B, L]; k int64 [B].  Returns bool [B, L].
    """
    ranked = score.masked_fill(~among, torch.inf).sort(1).values
    cutoff = ranked.gather(1, k.clamp(max=score.shape[1] - 1).unsqueeze(1)) + slack
    return among & ((score < cutoff) | (k >= among.sum(1)).unsqueeze(1))


def block_width(canvas: Canvas) -> Tensor:
    """Return the columns of the block up to its last editable one, int64 [B], prompt included."""
    behind = torch.arange(1, canvas.tokens.shape[1] + 1, device=canvas.tokens.device)
    return ((canvas.editable * behind).amax(1) - canvas.start).clamp_min(0)


def block_quota(canvas: Canvas, clock: Clock) -> Tensor:
    """Split the block's width evenly over its steps, int64 [B]; later steps get the last share."""
    step = torch.minimum(clock.step, clock.steps - 1)
    return even_quota(block_width(canvas), Clock(step, clock.steps))


def confident_or_quota(
    confidence: Tensor, eligible: Tensor, quota: Tensor, threshold: float
) -> Tensor:
    """Choose all eligible positions above the threshold if they fill the quota, else its best.

    Args:
        confidence: [B, L], probabilities; `>` the threshold, strictly.
        eligible: bool [B, L].
        quota: int64 [B], clamped to the number of eligible positions.
        threshold: above 1 the quota alone decides.

    Returns:
        bool [B, L], a subset of `eligible`.
    """
    confident = eligible & (confidence > threshold)
    enough = confident.sum(1) >= quota
    return torch.where(enough.unsqueeze(1), confident, top_k_positions(confidence, eligible, quota))


def near_best_positions(log_confidence: Tensor, eligible: Tensor, threshold: float) -> Tensor:
    """Choose the eligible positions with p >= min(threshold, max p - 1e-5), bool [B, L]."""
    confidence = log_confidence.exp().masked_fill(~eligible, -math.inf)
    bound = (confidence.amax(1, keepdim=True) - _NEAR).clamp(max=threshold)
    return eligible & (confidence >= bound)

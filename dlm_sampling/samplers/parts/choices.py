"""Compute log-probabilities of a choice of positions under the law that a step chose them by."""

from __future__ import annotations

import torch
from torch import Tensor

from dlm_sampling.types import Canvas, Choice


def log_independent(chosen: Tensor, among: Tensor, prob: Tensor) -> Tensor:
    """Return the log-probability of choosing each position of `among` independently.

        sum over chosen of log p_i + sum over the others of log(1 - p_i)

    Args: chosen, among bool [B, L]; prob float64 [B], [B, 1] or [B, L], clamped to [0, 1].
    Returns: float64 [B]; -inf for what cannot happen.
    """
    p = (prob.unsqueeze(1) if prob.ndim == 1 else prob).clamp(0.0, 1.0).expand(among.shape)
    return torch.where(chosen, p.log(), torch.log1p(-p)).masked_fill(~among, 0.0).sum(1)


def log_subset(chosen: Tensor, among: Tensor, size: Tensor) -> Tensor:
    """Return the log-probability of a uniform subset of k of n positions, -log C(n, k).

    Args: chosen, among bool [B, L], chosen a subset; size int64 [B], k, clamped to n.
    Returns: float64 [B]; -inf for a subset of another size.
    """
    n, k = among.sum(1), chosen.sum(1)
    wrong, (m, j) = k != torch.minimum(size, n), (count.double() for count in (n, k))
    ways = torch.lgamma(m + 1.0) - torch.lgamma(j + 1.0) - torch.lgamma(m - j + 1.0)
    return (-ways).masked_fill(wrong, -torch.inf)


def log_moves(
    canvas: Canvas, choice: Choice, reveal: Tensor, remask: Tensor, last: Tensor
) -> Tensor:
    """Return the log-probability of revealing masks and masking tokens again, float64 [B].

    Args:
        canvas: before the step, on masks.
        choice: the positions that the step chose.
        reveal: probability that a mask is written, float64 [B] or [B, 1].
        remask: probability that a token is masked again, float64 [B], [B, 1] or [B, L].
        last: rows that reveal all and mask nothing, bool [B].
    """
    over = last.unsqueeze(1)
    reveal, remask = (p.unsqueeze(1) if p.ndim == 1 else p for p in (reveal, remask))
    written = log_independent(choice.written, canvas.eligible, torch.where(over, 1.0, reveal))
    return written + log_independent(
        choice.masked, canvas.committed, torch.where(over, 0.0, remask)
    )


def certain(canvas: Canvas) -> Tensor:
    """Return the log-probability of a choice that leaves nothing to chance, 0, float64 [B]."""
    return torch.zeros_like(canvas.start, dtype=torch.float64)

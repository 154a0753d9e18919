"""Choose positions from records [B, L]; no function here sees a vocabulary."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dlm_sampling.errors import NoLawError
from dlm_sampling.ops._dispatch import kernel
from dlm_sampling.ops.host_sync import sync_allowed
from dlm_sampling.ops.philox import Rng, Stream
from dlm_sampling.types import RandomSource
from dlm_sampling.types.values import some

_NUMPY = (torch.float32, torch.float64)


def top_k_positions(score: Tensor, eligible: Tensor, k: Tensor) -> Tensor:
    """Choose the k eligible positions of largest score in each row; ties go to the lowest position.

    Args:
        score: [B, L], any float or integer dtype; read only where eligible.
        eligible: bool [B, L].
        k: int64 [B]; clamped to [0, number of eligible positions].

    Returns:
        bool [B, L], a subset of `eligible`.

    Raises:
        ValueError: a NaN score at an eligible position.
    """
    fused = kernel("top_k_positions", score, score=score.dtype)
    if fused is not None:
        return fused(score, eligible, k, check=sync_allowed())
    _refuse_nan(score, eligible)
    if score.is_cpu and score.dtype in _NUMPY:
        return torch.from_numpy(_first(score, eligible, k))
    chosen = torch.arange(score.shape[-1], device=score.device) < k[:, None]
    order = _ranked(score, eligible)
    return torch.zeros_like(eligible).scatter_(-1, order, chosen) & eligible


def threshold_positions(
    score: Tensor, eligible: Tensor, threshold: float | Tensor, *, at_least: int | Tensor = 1
) -> Tensor:
    """Choose the eligible positions with score >= threshold, and at least the `at_least` best.

    Args:
        score: [B, L].
        eligible: bool [B, L].
        threshold: one number, or [B], or [B, L].
        at_least: one int, or int64 [B]; clamped to the number of eligible positions.

    Returns:
        bool [B, L], a subset of `eligible`.

    Raises:
        ValueError: a NaN score at an eligible position.
    """
    fused = kernel("threshold_positions", score, score=score.dtype)
    if fused is not None:
        return fused(score, eligible, threshold, at_least=at_least, check=sync_allowed())
    if isinstance(threshold, Tensor) and threshold.ndim == 1:
        threshold = threshold[:, None]
    if not isinstance(at_least, Tensor):
        at_least = torch.full((score.shape[0],), at_least, dtype=torch.int64, device=score.device)
    return (eligible & (score >= threshold)) | top_k_positions(score, eligible, at_least)


def stochastic_positions(
    log_weight: Tensor,
    eligible: Tensor,
    k: Tensor,
    rng: RandomSource,
    *,
    stream: int = Stream.POSITION,
    sub: int = 0,
) -> Tensor:
    """Draw k eligible positions per row without replacement, in proportion to the weights.

    The k largest log-weight + Gumbel numbers are the first k draws without replacement (Kool, van
    Hoof and Welling 2019, "Stochastic beams and where to find them").

    Args:
        log_weight: [B, L]; -inf is drawn only after every finite one.
        eligible: bool [B, L].
        k: int64 [B]; clamped to [0, number of eligible positions].
        rng: the rows' random numbers.
        stream: which random stream.
        sub: index of the draw within the step.

    Returns:
        bool [B, L], a subset of `eligible`.

    Raises:
        ValueError: a NaN log-weight at an eligible position.
    """
    if isinstance(rng, Rng):
        fused = kernel("stochastic_positions", log_weight, score=log_weight.dtype)
        if fused is not None:
            return fused(log_weight, eligible, k, rng, stream=stream, sub=sub, check=sync_allowed())
    return top_k_positions(log_weight + rng.gumbel(stream, log_weight, sub), eligible, k)


def budget_positions(
    score: Tensor, cost: Tensor, eligible: Tensor, budget: float | Tensor
) -> Tensor:
    """Choose the longest head by score whose cost, less its largest, is at most the budget.

    With entropies as the cost the left side bounds what independent draws ignore (Ben-Hamu et al.
    2025, "Accelerated Sampling from Masked Diffusion Models via Entropy Bounded Unmasking",
    arXiv:2505.24857).

    Args:
        score: floating point [B, L], the largest goes first; ties go to the lowest position.
        cost: floating point [B, L]; below 0 counts as 0.
        eligible: bool [B, L].
        budget: >= 0, one number, or [B].

    Returns:
        bool [B, L], a subset of `eligible`; at least one position in a row that has any.

    Raises:
        ValueError: a NaN score at an eligible position.
    """
    fused = kernel("budget_positions", score, score=score.dtype)
    if fused is not None:
        return fused(score, cost, eligible, budget, check=sync_allowed())
    _refuse_nan(score, eligible)
    order = _ranked(score, eligible)
    h = cost.double().clamp_min(0.0).masked_fill(~eligible, 0.0).gather(-1, order)
    # Sum less maximum without cancellation: each adds the smaller of itself and all before it.
    largest = torch.nn.functional.pad(h.cummax(-1).values[:, :-1], (1, 0))
    limit = budget[:, None] if isinstance(budget, Tensor) else budget
    within = torch.minimum(h, largest).cumsum(-1) <= limit
    return torch.zeros_like(eligible).scatter_(-1, order, within) & eligible


def _ranked(score: Tensor, eligible: Tensor) -> Tensor:
    """Return the positions of each row by score, those that are not eligible last, int64 [B, L].

    Equal scores keep the order of the positions.
    """
    if score.is_cpu and score.dtype in _NUMPY:
        return torch.from_numpy(_lexical(score.numpy(), eligible.numpy()))
    # Two stable sorts: by score, then eligible positions first, so that an eligible score of -inf
    # still goes before every position that is not eligible.
    order = torch.sort(score, dim=-1, descending=True, stable=True).indices
    late = (~eligible).gather(-1, order).to(torch.uint8)
    return order.gather(-1, torch.sort(late, dim=-1, stable=True).indices)


def _first(score: Tensor, eligible: Tensor, k: Tensor) -> NDArray[np.bool_]:
    """Return the k eligible positions of largest score of each row, of scores on the CPU."""
    among: NDArray[np.bool_] = eligible.numpy()
    chosen = np.zeros(among.shape, np.bool_)
    for row, values, candidates, most in zip(chosen, score.numpy(), among, k.numpy(), strict=True):
        places = candidates.nonzero()[0]
        if most < len(places):
            places = places[(-values[places]).argsort(kind="stable")[: max(most, 0)]]
        row[places] = True
    return chosen


def _lexical(score: NDArray[Any], eligible: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return what `_ranked` does, of scores on the CPU; the last key is the first to sort by."""
    return np.lexsort((-score, ~eligible), axis=-1)


def _refuse_nan(score: Tensor, eligible: Tensor) -> None:
    if score.is_floating_point() and sync_allowed():
        plain = score.is_cpu and score.dtype in _NUMPY
        if plain and 1 not in np.isnan(score.numpy()).tobytes():
            return
        bad = score.isnan() & eligible
        if some(bad):
            row, position = (int(i) for i in bad.nonzero()[0])
            raise NoLawError(f"score is NaN at row {row}, position {position}: check its logits.")

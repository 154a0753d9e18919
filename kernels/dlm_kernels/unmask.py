"""K3: chooses positions, one program per row of the canvas, and writes the tokens in place.

The twin of dlm_sampling.ops.select.  The k-th largest score is found bit by bit: scores are mapped
to unsigned keys of the same order, and each turn asks how many keys reach a candidate; no sort.
Ties go to the lowest position.  k, the threshold and the counts stay on the device.

No GPU has run this yet; see kernels/STATUS.md.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from dlm_kernels.limits import obstacle, refuse
from dlm_kernels.order import kth_largest, ordered

_LEAST_BLOCK = 16
_BYTES_PER_WARP = 2048  # of scores as the kernel holds them; with more, registers spill


class Written(NamedTuple):
    """Counts of a row, on the device; int64 [B]."""

    revealed: Tensor  # positions written
    left: Tensor  # eligible positions that were not
    invalid: Tensor  # eligible positions whose score is NaN; they count as the lowest score


@triton.jit
def highest(key, eligible, k, WIDE: tl.constexpr):
    """The k largest eligible keys, bool; the lowest positions of those that equal the k-th."""
    found = kth_largest(key, eligible, k, WIDE)
    above = eligible & (key > found)
    equal = eligible & (key == found)
    room = k - tl.sum(above.to(tl.int32), 0)
    return above | (equal & (tl.cumsum(equal.to(tl.int32), 0) <= room))


@triton.jit
def unmask_kernel(
    score, eligible, k, threshold, chosen, tokens, drawn, unknown, counts,
    rows, length, stride_score, stride_eligible, stride_threshold, stride_column,
    stride_tokens, stride_drawn, stride_unknown,
    WIDE: tl.constexpr, THRESHOLD: tl.constexpr, WRITE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Grid (B,).  counts is int64 [3, B], in the order of Written."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < length
    allowed = tl.load(eligible + row * stride_eligible + column, mask=inside, other=0) != 0
    value = tl.load(score + row * stride_score + column, mask=inside, other=0.0)
    number = value.to(tl.float64) if WIDE else value.to(tl.float32)
    there = tl.sum(allowed.to(tl.int32), 0)
    wanted = tl.minimum(tl.maximum(tl.load(k + row), 0), there.to(tl.int64)).to(tl.int32)
    taken = highest(ordered(number, WIDE), allowed, wanted, WIDE)
    if THRESHOLD:
        place = threshold + row * stride_threshold + column * stride_column
        taken = taken | (allowed & (value >= tl.load(place, mask=inside, other=0.0)))
    written = tl.sum(taken.to(tl.int64), 0)
    tl.store(counts + row, written)
    tl.store(counts + rows + row, there - written)
    tl.store(counts + 2 * rows + row, tl.sum((allowed & (number != number)).to(tl.int64), 0))
    if WRITE:
        new = tl.load(drawn + row * stride_drawn + column, mask=taken, other=0)
        tl.store(tokens + row * stride_tokens + column, new, mask=taken)
        nothing = tl.zeros((BLOCK,), dtype=tl.int8)
        tl.store(unknown + row * stride_unknown + column, nothing, mask=taken)
    else:
        tl.store(chosen + row * length + column, taken.to(tl.int8), mask=inside)


def top_k_positions(score: Tensor, eligible: Tensor, k: Tensor) -> Tensor:
    """The k eligible positions of largest score in each row, as dlm_sampling.ops.top_k_positions.

    Args:
        score: floating point [B, L].
        eligible: bool [B, L].
        k: int64 [B]; clamped to [0, number of eligible positions].

    Returns:
        bool [B, L].

    Raises:
        ValueError: a NaN score at an eligible position; asking waits for the device.
        TypeError: the kernel cannot run: device, dtype, length.
    """
    return _choose(score, eligible, k, None)


def threshold_positions(
    score: Tensor, eligible: Tensor, threshold: float | Tensor, *, at_least: int | Tensor = 1
) -> Tensor:
    """Scores >= threshold, and never fewer than the `at_least` best, as the op of this name.

    Args:
        score: floating point [B, L].
        eligible: bool [B, L].
        threshold: one number, or [B], or [B, L].
        at_least: one int, or int64 [B]; clamped to the number of eligible positions.

    Returns:
        bool [B, L].

    Raises:
        ValueError: a NaN score at an eligible position; asking waits for the device.
        TypeError: the kernel cannot run: device, dtype, length.
    """
    return _choose(score, eligible, _counts(at_least, score), _limits(threshold, score))


def unmask_(
    tokens: Tensor,
    unknown: Tensor,
    drawn: Tensor,
    score: Tensor,
    eligible: Tensor,
    *,
    k: int | Tensor,
    threshold: float | Tensor | None = None,
) -> Written:
    """Choose positions as `threshold_positions` does and write there, in place, without waiting.

    Args:
        tokens: int64 [B, L]; takes `drawn` at the chosen positions.
        unknown: bool [B, L]; becomes False there.
        drawn: int64 [B, L], the tokens drawn.
        score: floating point [B, L].
        eligible: bool [B, L].
        k: how many positions at least, one int or int64 [B].
        threshold: also every score >= it; one number, or [B], or [B, L], or None for the k best.

    Returns:
        Counts on the device; a row with `invalid` > 0 had NaN scores.

    Raises:
        TypeError: the kernel cannot run: device, dtype, length.
    """
    limits = None if threshold is None else _limits(threshold, score)
    counts = write_(tokens, unknown, drawn, score, eligible, _counts(k, score), limits)
    return Written(*counts.unbind(0))


@torch.library.custom_op(
    "dlm_kernels::choose",
    mutates_args=(),
    schema="(Tensor score, Tensor eligible, Tensor k, Tensor? threshold) -> (Tensor, Tensor)",
)
def choose(
    score: Tensor, eligible: Tensor, k: Tensor, threshold: Tensor | None
) -> tuple[Tensor, Tensor]:
    """K3 as an operator: the positions, bool [B, L], and the counts of `Written`, int64 [3, B].

    Args:
        score: floating point [B, L].
        eligible: bool [B, L].
        k: int64 [B].
        threshold: [B, L], or None.
    """
    chosen = torch.empty(score.shape, dtype=torch.bool, device=score.device)
    return chosen, _launch(score, eligible, k, threshold, chosen, None)


@choose.register_fake
def _(score: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    counts = torch.empty(3, score.shape[0], dtype=torch.int64, device=score.device)
    return torch.empty(score.shape, dtype=torch.bool, device=score.device), counts


@torch.library.custom_op(
    "dlm_kernels::write_",
    mutates_args=("tokens", "unknown"),
    schema="(Tensor(a!) tokens, Tensor(b!) unknown, Tensor drawn, Tensor score, Tensor eligible, "
    "Tensor k, Tensor? threshold) -> Tensor",
)
def write_(
    tokens: Tensor, unknown: Tensor, drawn: Tensor, score: Tensor, eligible: Tensor,
    k: Tensor, threshold: Tensor | None,
) -> Tensor:  # fmt: skip
    """K3 as an operator that writes; arguments as `unmask_`, k and threshold as `choose`.

    Returns:
        The counts of `Written`, int64 [3, B].
    """
    return _launch(score, eligible, k, threshold, None, (tokens, drawn, unknown))


@write_.register_fake
def _(tokens: Tensor, *_: object) -> Tensor:
    return torch.empty(3, tokens.shape[0], dtype=torch.int64, device=tokens.device)


def _counts(k: int | Tensor, score: Tensor) -> Tensor:
    if isinstance(k, Tensor):
        return k
    return torch.full((score.shape[0],), k, dtype=torch.int64, device=score.device)


def _limits(threshold: float | Tensor, score: Tensor) -> Tensor:
    if not isinstance(threshold, Tensor):
        threshold = torch.full((1,), threshold, dtype=score.dtype, device=score.device)
    column = threshold[:, None] if threshold.ndim == 1 else threshold
    return column.expand(score.shape)


def _choose(score: Tensor, eligible: Tensor, k: Tensor, threshold: Tensor | None) -> Tensor:
    chosen, counts = choose(score, eligible, k, threshold)
    if bool(Written(*counts.unbind(0)).invalid.any()):
        row, position = (int(i) for i in (score.isnan() & eligible).nonzero()[0])
        raise ValueError(f"score is NaN at row {row}, position {position}: check its logits.")
    return chosen


def _launch(
    score: Tensor,
    eligible: Tensor,
    k: Tensor,
    threshold: Tensor | None,
    chosen: Tensor | None,
    canvas: tuple[Tensor, Tensor, Tensor] | None,
) -> Tensor:
    rows, length = score.shape
    refuse(obstacle(score.device, score=score.dtype, length=length))
    score, eligible = _dense(score), _dense(eligible)
    tokens, drawn, unknown = canvas or (None, None, None)
    counts = torch.zeros(3, rows, dtype=torch.int64, device=score.device)
    limit_strides = (0, 0) if threshold is None else threshold.stride()
    columns = (tokens, drawn, unknown)
    if any(part is not None and part.stride(1) != 1 for part in columns):
        raise ValueError("tokens, drawn and unknown must be dense along positions: stride(1) == 1.")
    block = max(triton.next_power_of_2(length), _LEAST_BLOCK)
    if not rows or not length:
        return counts
    with torch.cuda.device_of(score):
        unmask_kernel[(rows,)](
            score, _bytes(eligible), k.contiguous(), threshold, _bytes(chosen),
            tokens, drawn, _bytes(unknown), counts, rows, length,
            score.stride(0), eligible.stride(0), *limit_strides,
            *(part.stride(0) if part is not None else 0 for part in columns),
            WIDE=score.dtype == torch.float64, THRESHOLD=threshold is not None,
            WRITE=canvas is not None, BLOCK=block, num_warps=_warps(block, score.dtype),
            enable_fp_fusion=True,
        )  # fmt: skip
    return counts


def _warps(block: int, score: torch.dtype) -> int:
    return max(block * (8 if score == torch.float64 else 4) // _BYTES_PER_WARP, 1)


def _dense(x: Tensor) -> Tensor:
    return x if x.stride(1) == 1 else x.contiguous()


def _bytes(flags: Tensor | None) -> Tensor | None:
    return None if flags is None else flags.view(torch.int8)

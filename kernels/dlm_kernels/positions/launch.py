"""Launch K3, which chooses positions of a canvas and writes the tokens in place.

Scores, counts, thresholds, budgets and block bounds stay on the device; see `positions_rows`.

No GPU has run this yet; see kernels/STATUS.md.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from dlm_kernels.common.device_tables import number
from dlm_kernels.common.support import obstacle, refuse
from dlm_kernels.positions.kernel import positions_kernel
from dlm_kernels.positions.long_rows import LOADS, long_rows_kernel

HELD = 1 << 15  # bytes that K3 holds of a row: with more, registers spill
NARROW, WIDE, BUDGETED = 4, 8, 16  # bytes that it holds per position
_BYTES_PER_WARP = 2048
_LEAST_BLOCK = 16
CHUNK, _LONG_ROWS_WARPS = 1024, 8  # columns of a longer row at a time
LONG_ROWS_REGISTERS = 160  # left alone, the assembler spills a few numbers
_NO_STREAM = -1


class Written(NamedTuple):
    """Count the positions of a row, on the device; int64 [B]."""

    revealed: Tensor  # positions written
    left: Tensor  # eligible positions that were not
    invalid: Tensor  # eligible positions whose score is NaN; they count as the lowest score


class Noise(NamedTuple):
    """Hold Gumbel noise to add to scores; keys, steps and origins int64 [B], sub int64 []."""

    keys: Tensor
    steps: Tensor
    origins: Tensor
    sub: Tensor
    stream: int

    @classmethod
    def of(cls, rng: Any, stream: int, sub: int | Tensor = 0) -> Noise:
        """Take the noise of a dlm_sampling.ops.Rng."""
        draw = sub if isinstance(sub, Tensor) else number(sub, rng.keys.device)
        return cls(rng.keys, rng.step, rng.origin, draw, int(stream))


def top_k_positions(score: Tensor, eligible: Tensor, k: Tensor, *, check: bool = True) -> Tensor:
    """Choose the k eligible positions of largest score in each row, as the op of this name.

    Args:
        score: floating point [B, L].
        eligible: bool [B, L].
        k: int64 [B]; clamped to [0, number of eligible positions].
        check: refuse NaN scores; waits for the device.

    Returns:
        bool [B, L].

    Raises:
        ValueError: with `check`, a NaN score at an eligible position.
        TypeError: the kernel cannot run: device or dtype.
    """
    return _choose(score, eligible, k, None, check=check)


def threshold_positions(
    score: Tensor,
    eligible: Tensor,
    threshold: float | Tensor,
    *,
    at_least: int | Tensor = 1,
    check: bool = True,
) -> Tensor:
    """Choose scores >= threshold, and never fewer than the `at_least` best, as the op of this name.

    Args:
        score: floating point [B, L].
        eligible: bool [B, L].
        threshold: one number, or [B], or [B, L].
        at_least: one int, or int64 [B]; clamped to the number of eligible positions.
        check: refuse NaN scores; waits for the device.

    Returns:
        bool [B, L].

    Raises:
        ValueError: with `check`, a NaN score at an eligible position.
        TypeError: the kernel cannot run: device or dtype.
    """
    rules = (_counts(at_least, score), _limits(threshold, score))
    return _choose(score, eligible, *rules, check=check)


def budget_positions(
    score: Tensor,
    cost: Tensor,
    eligible: Tensor,
    budget: float | Tensor,
    *,
    check: bool = True,
) -> Tensor:
    """Choose the longest head whose cost, less its largest, is within budget, as the op.

    Args:
        score: floating point [B, L].
        cost: floating point [B, L].
        eligible: bool [B, L].
        budget: one number, or [B].
        check: refuse NaN scores; waits for the device.

    Returns:
        bool [B, L].

    Raises:
        ValueError: with `check`, a NaN score at an eligible position.
        TypeError: the kernel cannot run: device or dtype.
    """
    rules = (_counts(0, score), None, cost, _budgets(budget, score))
    return _choose(score, eligible, *rules, check=check)


def stochastic_positions(
    log_weight: Tensor,
    eligible: Tensor,
    k: Tensor,
    rng: Any,
    *,
    stream: int,
    sub: int | Tensor = 0,
    check: bool = True,
) -> Tensor:
    """Draw k positions without replacement, in proportion to the weights, as the op of this name.

    Args:
        log_weight: floating point [B, L].
        eligible: bool [B, L].
        k: int64 [B]; clamped to [0, number of eligible positions].
        rng: a dlm_sampling.ops.Rng.
        stream: which random stream.
        sub: index of the draw within the step; an int64 tensor [] stays on the device.
        check: refuse NaN scores; waits for the device.

    Returns:
        bool [B, L].

    Raises:
        ValueError: with `check`, a NaN log-weight at an eligible position.
        TypeError: the kernel cannot run: device or dtype.
    """
    return _choose(log_weight, eligible, k, None, noise=Noise.of(rng, stream, sub), check=check)


def unmask_(
    tokens: Tensor,
    unknown: Tensor,
    drawn: Tensor,
    score: Tensor,
    eligible: Tensor,
    *,
    k: int | Tensor,
    threshold: float | Tensor | None = None,
    cost: Tensor | None = None,
    budget: float | Tensor = 0.0,
    window: Tensor | None = None,
    noise: Noise | None = None,
) -> Written:
    """Choose positions by any of the rules and write there, in place, without waiting.

    A position is written if one of the rules that are given takes it.

    Args:
        tokens: int64 [B, L]; takes `drawn` at the chosen positions.
        unknown: bool [B, L]; becomes False there.
        drawn: int64 [B, L], the tokens drawn.
        score: floating point [B, L].
        eligible: bool [B, L].
        k: least number of positions, one int or int64 [B].
        threshold: also every score >= it; one number, or [B], or [B, L], or None for the k best.
        cost: also the head that `budget_positions` takes; floating point [B, L], or None.
        budget: of that head; one number, or [B].
        window: int64 [B, 2]: only columns from the first up to, not with, the second.
        noise: added to the scores before the k best are taken (and the head): a draw without
            replacement.  Thresholds read the scores without it.

    Returns:
        Counts on the device; a row with `invalid` > 0 had NaN scores.

    Raises:
        TypeError: the kernel cannot run: device or dtype.
    """
    limits = None if threshold is None else _limits(threshold, score)
    budgets = None if cost is None else _budgets(budget, score)
    counts = unmask_rows_(
        tokens, unknown, drawn, score, eligible, _counts(k, score), limits, cost, budgets, window,
        *(noise or _NO_NOISE),
    )  # fmt: skip
    return Written(*counts.unbind(0))


_NO_NOISE = (None, None, None, None, _NO_STREAM)
_RULES = (
    "Tensor k, Tensor? threshold, Tensor? cost, Tensor? budget, Tensor? window, Tensor? keys, "
    "Tensor? steps, Tensor? origins, Tensor? sub, int stream"
)


@torch.library.custom_op(
    "dlm_kernels::positions_rows",
    mutates_args=(),
    schema=f"(Tensor score, Tensor eligible, {_RULES}) -> (Tensor, Tensor)",
)
def positions_rows(
    score: Tensor, eligible: Tensor, k: Tensor, threshold: Tensor | None, cost: Tensor | None,
    budget: Tensor | None, window: Tensor | None, keys: Tensor | None, steps: Tensor | None,
    origins: Tensor | None, sub: Tensor | None, stream: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Run K3 as an operator; return positions, bool [B, L], and counts of `Written`, int64 [3, B].

    Args:
        score: floating point [B, L].
        eligible: bool [B, L].
        k: int64 [B].
        threshold: [B, L], or None.
        cost: floating point [B, L], or None.
        budget: float64 [B], or None.
        window: int64 [B, 2], or None.
        keys: int64 [B], or None: of `Noise`, as the next four.
        steps: int64 [B].
        origins: int64 [B].
        sub: int64 [].
        stream: -1 for no noise.
    """
    chosen = torch.empty(score.shape, dtype=torch.bool, device=score.device)
    rules = (k, threshold, cost, budget, window)
    return chosen, _launch(score, eligible, rules, (keys, steps, origins, sub, stream), chosen)


@positions_rows.register_fake
def _(score: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    counts = torch.empty(3, score.shape[0], dtype=torch.int64, device=score.device)
    return torch.empty(score.shape, dtype=torch.bool, device=score.device), counts


@torch.library.custom_op(
    "dlm_kernels::unmask_rows_",
    mutates_args=("tokens", "unknown"),
    schema="(Tensor(a!) tokens, Tensor(b!) unknown, Tensor drawn, Tensor score, Tensor eligible, "
    f"{_RULES}) -> Tensor",
)
def unmask_rows_(
    tokens: Tensor, unknown: Tensor, drawn: Tensor, score: Tensor, eligible: Tensor,
    k: Tensor, threshold: Tensor | None, cost: Tensor | None, budget: Tensor | None,
    window: Tensor | None, keys: Tensor | None, steps: Tensor | None, origins: Tensor | None,
    sub: Tensor | None, stream: int,
) -> Tensor:  # fmt: skip
    """Run K3 as an operator that writes; arguments as `unmask_` and `positions_rows`.

    Returns:
        The counts of `Written`, int64 [3, B].
    """
    canvas = (tokens, drawn, unknown)
    if any(part.stride(1) != 1 for part in canvas):
        raise ValueError("tokens, drawn and unknown must be dense along positions: stride(1) == 1.")
    rules = (k, threshold, cost, budget, window)
    return _launch(score, eligible, rules, (keys, steps, origins, sub, stream), None, canvas)


@unmask_rows_.register_fake
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


def _budgets(budget: float | Tensor, score: Tensor) -> Tensor:
    if not isinstance(budget, Tensor):
        budget = torch.full((1,), budget, dtype=torch.float64, device=score.device)
    return budget.double().expand(score.shape[0]).contiguous()


def _choose(
    score: Tensor,
    eligible: Tensor,
    k: Tensor,
    threshold: Tensor | None,
    cost: Tensor | None = None,
    budget: Tensor | None = None,
    noise: Noise | None = None,
    *,
    check: bool,
) -> Tensor:
    rules = (k, threshold, cost, budget, None)
    chosen, counts = positions_rows(score, eligible, *rules, *(noise or _NO_NOISE))
    if check and bool(Written(*counts.unbind(0)).invalid.any()):
        row, position = (int(i) for i in (score.isnan() & eligible).nonzero()[0])
        raise ValueError(f"score is NaN at row {row}, position {position}: check its logits.")
    return chosen


def _launch(
    score: Tensor,
    eligible: Tensor,
    rules: tuple[Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor | None],
    noise: tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None, int],
    chosen: Tensor | None,
    canvas: tuple[Tensor | None, ...] = (None, None, None),
) -> Tensor:
    rows, length = score.shape
    k, threshold, cost, budget, window = rules
    *address, stream = noise
    wide = score.dtype == torch.float64 or stream != _NO_STREAM
    refuse(obstacle(score.device, score=score.dtype))
    score, eligible = _dense(score), _dense(eligible)
    tokens, drawn, unknown = canvas
    counts = torch.zeros(3, rows, dtype=torch.int64, device=score.device)
    if not rows or not length:
        return counts
    cost = None if cost is None else _dense(cost)
    arguments = (
        score, _bytes(eligible), k.contiguous(), threshold, cost, budget, window, *address,
        _bytes(chosen), tokens, drawn, _bytes(unknown), counts, rows, length,
        score.stride(0), eligible.stride(0), *_strides(threshold), _strides(cost)[0],
        *_strides(window), *(_strides(part)[0] for part in (tokens, drawn, unknown)),
    )  # fmt: skip
    held = BUDGETED if cost is not None else WIDE if wide else NARROW
    block = max(triton.next_power_of_2(length), _LEAST_BLOCK)
    options = {
        "WIDE": wide, "THRESHOLD": threshold is not None, "BUDGET": cost is not None,
        "WINDOW": window is not None, "STREAM": stream, "WRITE": chosen is None,
        "enable_fp_fusion": True,
    }  # fmt: skip
    with torch.cuda.device_of(score):
        if block * held <= HELD:
            warps = max(block * held // _BYTES_PER_WARP, 1)
            positions_kernel[(rows,)](*arguments, **options, BLOCK=block, num_warps=warps)
        else:
            room = triton.cdiv(length, LOADS.value * CHUNK) * LOADS.value * CHUNK
            keys = torch.uint64 if wide else torch.uint32
            order = torch.empty(rows, room, dtype=keys, device=score.device)
            long_rows_kernel[(rows,)](
                order, *arguments, **options, CHUNK=CHUNK, num_warps=_LONG_ROWS_WARPS,
                maxnreg=LONG_ROWS_REGISTERS,
            )  # fmt: skip
    return counts


def _dense(x: Tensor) -> Tensor:
    return x if x.stride(1) == 1 else x.contiguous()


def _strides(x: Tensor | None) -> tuple[int, int]:
    return (0, 0) if x is None else (x.stride(0), x.stride(1))


def _bytes(flags: Tensor | None) -> Tensor | None:
    return None if flags is None else flags.view(torch.int8)

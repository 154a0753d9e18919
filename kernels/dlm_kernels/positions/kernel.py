"""Choose the positions of a row of the canvas that are written: K3.

The twin of dlm_sampling.ops.positions.  The k-th largest score is found bit by bit: scores are
mapped to unsigned keys of the same order, and each turn asks how many keys reach a
candidate; no sort.  The head that a budget allows is found the same way.  Ties go to the lowest
position.  A row is held in registers; `long_rows` takes the rows that are too long for that.

No GPU has run this yet; see kernels/STATUS.md.
"""

from __future__ import annotations

import triton
import triton.language as tl

from dlm_kernels.common.float_order import kth_largest, ordered
from dlm_kernels.common.philox import arrivals


@triton.jit
def top_k(key, eligible, k, WIDE: tl.constexpr):
    """Return the k largest eligible keys, bool; of equal keys the lowest positions."""
    found = kth_largest(key, eligible, k, WIDE)
    above = eligible & (key > found)
    equal = eligible & (key == found)
    room = k - tl.sum(above.to(tl.int32), 0)
    return above | (equal & (tl.cumsum(equal.to(tl.int32), 0) <= room))


@triton.jit
def larger(a, b):
    """Return the larger of two numbers, for scans."""
    return tl.maximum(a, b)


@triton.jit
def within_budget(key, eligible, cost, budget, WIDE: tl.constexpr):
    """Return the longest head whose cost, less its largest, is at most `budget`; cost float64."""
    found = tl.max(key, 0) * 0
    bit = (found + 1) << (63 if WIDE else 31)
    for _ in range(64 if WIDE else 32):
        candidate = found | bit
        spent = tl.where(eligible & (key >= candidate), cost, 0.0)
        found = tl.where(tl.sum(spent, 0) - tl.max(spent, 0) > budget, candidate, found)
        bit = bit >> 1
    above = eligible & (key > found)
    equal = eligible & (key == found)
    spent, more = tl.where(above, cost, 0.0), tl.where(equal, cost, 0.0)
    largest = tl.maximum(tl.associative_scan(more, 0, larger), tl.max(spent, 0))
    fits = tl.sum(spent, 0) + tl.cumsum(more, 0) - largest <= budget
    return above | (equal & fits)


@triton.jit
def may_choose(
    eligible, window, row, column, inside, stride_eligible, stride_window, stride_bound,
    WINDOW: tl.constexpr,
):  # fmt: skip
    """Return which of these columns of the row may be chosen."""
    allowed = tl.load(eligible + row * stride_eligible + column, mask=inside, other=0) != 0
    if WINDOW:
        bounds = window + row * stride_window
        allowed &= (column >= tl.load(bounds)) & (column < tl.load(bounds + stride_bound))
    return allowed


@triton.jit
def with_noise(
    value, keys, steps, origins, sub, row, column, WIDE: tl.constexpr, STREAM: tl.constexpr
):  # fmt: skip
    """Add the noise of their columns to the scores `value`."""
    number = value.to(tl.float64) if WIDE else value.to(tl.float32)
    if STREAM >= 0:
        place = column.to(tl.int64) - tl.load(origins + row)
        clock = arrivals(tl.load(keys + row), place, tl.load(steps + row), tl.load(sub),
                         column * 0, STREAM)  # fmt: skip
        number -= tl.log(clock)
    return number


@triton.jit
def clamped(k, there):
    """Clamp the number of positions taken to [0, there], int32."""
    return tl.minimum(tl.maximum(k, 0), there.to(tl.int64)).to(tl.int32)


@triton.jit
def store_chosen(
    chosen, tokens, drawn, unknown, row, column, inside, taken, length, stride_tokens,
    stride_drawn, stride_unknown, WRITE: tl.constexpr,
):  # fmt: skip
    """Write the drawn tokens to the taken columns, or whether each column is taken."""
    if WRITE:
        new = tl.load(drawn + row * stride_drawn + column, mask=taken, other=0)
        tl.store(tokens + row * stride_tokens + column, new, mask=taken)
        nothing = (column * 0).to(tl.int8)
        tl.store(unknown + row * stride_unknown + column, nothing, mask=taken)
    else:
        tl.store(chosen + row * length + column, taken.to(tl.int8), mask=inside)


@triton.jit
def positions_kernel(
    score, eligible, k, threshold, cost, budget, window, keys, steps, origins, sub,
    chosen, tokens, drawn, unknown, counts,
    rows, length, stride_score, stride_eligible, stride_threshold, stride_column, stride_cost,
    stride_window, stride_bound, stride_tokens, stride_drawn, stride_unknown,
    WIDE: tl.constexpr, THRESHOLD: tl.constexpr, BUDGET: tl.constexpr, WINDOW: tl.constexpr,
    STREAM: tl.constexpr, WRITE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Choose positions of each row, and write there if asked; grid (B,).

    counts is int64 [3, B], in the order of Written.
    budget float64 [B].  window int64 [B, 2], first column and the one after the last.  STREAM: the
    random stream whose Gumbel numbers are added to the scores, or -1 for none.
    """
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < length
    allowed = may_choose(eligible, window, row, column, inside, stride_eligible, stride_window,
                         stride_bound, WINDOW)  # fmt: skip
    value = tl.load(score + row * stride_score + column, mask=inside, other=0.0)
    number = with_noise(value, keys, steps, origins, sub, row, column, WIDE, STREAM)
    there = tl.sum(allowed.to(tl.int32), 0)
    wanted = clamped(tl.load(k + row), there)
    order = ordered(number, WIDE)
    taken = top_k(order, allowed, wanted, WIDE)
    if THRESHOLD:
        limit = threshold + row * stride_threshold + column * stride_column
        taken = taken | (allowed & (value >= tl.load(limit, mask=inside, other=0.0)))
    if BUDGET:
        price = tl.load(cost + row * stride_cost + column, mask=inside, other=0.0).to(tl.float64)
        price = tl.maximum(price, 0.0)
        taken = taken | within_budget(order, allowed, price, tl.load(budget + row), WIDE)
    written = tl.sum(taken.to(tl.int64), 0)
    tl.store(counts + row, written)
    tl.store(counts + rows + row, there - written)
    tl.store(counts + 2 * rows + row, tl.sum((allowed & (number != number)).to(tl.int64), 0))
    store_chosen(chosen, tokens, drawn, unknown, row, column, inside, taken, length, stride_tokens,
                 stride_drawn, stride_unknown, WRITE)  # fmt: skip

"""Choose positions of rows that are too long for registers, chunk by chunk: K3 for long rows.

As `positions_kernel`, with the ordered keys of the scores in memory, 0 where a position may not be
chosen:

    found = max { c : #{ i : key_i >= c } >= k },

two bits at a time; a turn is one pass over the keys of the row, which asks about three candidates.
Exactly k keys that reach one of them end the search: nothing is left to tell apart.

No GPU has run this yet; see kernels/STATUS.md.
"""

from __future__ import annotations

import triton
import triton.language as tl

from dlm_kernels.common.float_order import ordered
from dlm_kernels.positions.kernel import clamped, larger, may_choose, store_chosen, with_noise

LOADS = tl.constexpr(4)  # pieces of keys that a turn waits for at once


@triton.jit
def _three(a, b, c, more_a, more_b, more_c):
    """Return three sums."""
    return a + more_a, b + more_b, c + more_c


@triton.jit
def _reached(order, stop, found, step, WIDTH: tl.constexpr):
    """Count the keys that reach found + step, found + 2 step and found + 3 step, int32."""
    column = tl.arange(0, WIDTH)
    one, start = column * 0, stop * 0
    two, three = one, one
    while start < stop:
        key = tl.load(order + start + column)
        one += (key >= found + step).to(tl.int32)
        two += (key >= found + step + step).to(tl.int32)
        three += (key >= found + step + step + step).to(tl.int32)
        start += WIDTH
    return tl.reduce((one, two, three), 0, _three)


@triton.jit
def _spent_above(order, cost, length, stop, floor, CHUNK: tl.constexpr):
    """Return the cost of all keys above `floor`, and the largest of it; float64."""
    column = tl.arange(0, CHUNK)
    total = tl.zeros((CHUNK,), tl.float64)
    most, start = total, stop * 0
    while start < stop:
        spent = _price(cost, start + column, length, tl.load(order + start + column) > floor)
        total += spent
        most = tl.maximum(most, spent)
        start += CHUNK
    return tl.sum(total, 0), tl.max(most, 0)


@triton.jit
def _price(cost, column, length, where):
    """Return the cost of some columns, 0 elsewhere and where it is below 0."""
    price = tl.load(cost + column, mask=where & (column < length), other=0.0).to(tl.float64)
    return tl.maximum(price, 0.0)


@triton.jit
def _first_bit(WIDE: tl.constexpr):
    """Return no key yet, and the highest bit of a key."""
    if WIDE:
        return tl.full((), 0, tl.uint64), tl.full((), 1 << 63, tl.uint64)
    else:
        return tl.full((), 0, tl.uint32), tl.full((), 1 << 31, tl.uint32)


@triton.jit
def long_rows_kernel(
    order, score, eligible, k, threshold, cost, budget, window, keys, steps, origins, sub,
    chosen, tokens, drawn, unknown, counts,
    rows, length, stride_score, stride_eligible, stride_threshold, stride_column, stride_cost,
    stride_window, stride_bound, stride_tokens, stride_drawn, stride_unknown,
    WIDE: tl.constexpr, THRESHOLD: tl.constexpr, BUDGET: tl.constexpr, WINDOW: tl.constexpr,
    STREAM: tl.constexpr, WRITE: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Choose positions as `positions_kernel` does, in chunks of a row; grid (B,).

    It takes the arguments of `positions_kernel`, after room for the keys.
    order: uint64 with WIDE, else uint32; [B, L rounded up to a multiple of LOADS * CHUNK].
    """
    row = tl.program_id(0).to(tl.int64)
    WIDTH: tl.constexpr = LOADS * CHUNK
    stop = tl.cdiv(length, WIDTH) * WIDTH
    order += row * stop
    score += row * stride_score
    if BUDGET:
        cost += row * stride_cost
    lane = tl.arange(0, CHUNK)

    eligible_here, start = lane * 0, length * 0
    while start < stop:
        column = start + lane
        inside = column < length
        allowed = may_choose(eligible, window, row, column, inside, stride_eligible, stride_window,
                             stride_bound, WINDOW)  # fmt: skip
        value = tl.load(score + column, mask=inside, other=0.0)
        number = with_noise(value, keys, steps, origins, sub, row, column, WIDE, STREAM)
        tl.store(order + column, tl.where(allowed, ordered(number, WIDE), 0))
        eligible_here += allowed.to(tl.int32)
        start += CHUNK
    tl.debug_barrier()  # other threads read what these have stored
    there = tl.sum(eligible_here, 0)
    wanted = clamped(tl.load(k + row), there)

    found, bit = _first_bit(WIDE)
    step = bit >> 1
    while step > 0:
        one, two, three = _reached(order, stop, found, step, WIDTH)
        digit = (one >= wanted).to(tl.int32) + (two >= wanted).to(tl.int32)
        digit += (three >= wanted).to(tl.int32)
        reached = tl.where(digit == 3, three, tl.where(digit == 2, two, one))
        found += step * digit.to(found.dtype)
        step = tl.where(reached == wanted, step - step, step >> 2)
    # With found = 0 the places that may not be chosen count as equal, which only costs time.
    reached, above, _ = _reached(order, stop, found - 1, (found - found) + 1, WIDTH)
    room = wanted - above
    tied = tl.where(room > 0, reached - above, 0) > room

    bound, bit = _first_bit(WIDE)
    limit = tl.full((), 0.0, tl.float64)
    spent, most = limit, limit
    if BUDGET:
        limit = tl.load(budget + row)
        while bit > 0:
            candidate = bound | bit
            spent, most = _spent_above(order, cost, length, stop, candidate - 1, CHUNK)
            bound = tl.where(spent - most > limit, candidate, bound)
            bit = bit >> 1
        spent, most = _spent_above(order, cost, length, stop, bound, CHUNK)

    written, invalid, start = lane * 0, lane * 0, length * 0
    while start < stop:
        column = start + lane
        inside = column < length
        allowed = may_choose(eligible, window, row, column, inside, stride_eligible, stride_window,
                             stride_bound, WINDOW)  # fmt: skip
        key = tl.load(order + column)
        equal = (allowed & (key == found)).to(tl.int32)
        first = (equal > 0) & (room > 0)
        if tied:  # else all of them are taken, or none
            first = (equal > 0) & (tl.cumsum(equal, 0) <= room)
            room -= tl.sum(equal, 0)
        taken = (key > found) | first
        if THRESHOLD:
            at = threshold + row * stride_threshold + column.to(tl.int64) * stride_column
            value = tl.load(score + column, mask=inside, other=0.0)
            taken = taken | (allowed & (value >= tl.load(at, mask=inside, other=0.0)))
        if BUDGET:
            same = allowed & (key == bound)
            more = _price(cost, column, length, same)
            top = tl.maximum(tl.associative_scan(more, 0, larger), most)
            fits = spent + tl.cumsum(more, 0) - top <= limit
            taken = taken | (key > bound) | (same & fits)
            spent += tl.sum(more, 0)
            most = tl.maximum(most, tl.max(more, 0))
        written += taken.to(tl.int32)
        invalid += (allowed & (key == 0)).to(tl.int32)  # the key of a NaN
        store_chosen(chosen, tokens, drawn, unknown, row, column, inside, taken, length,
                     stride_tokens, stride_drawn, stride_unknown, WRITE)  # fmt: skip
        start += CHUNK
    revealed = tl.sum(written, 0)
    tl.store(counts + row, revealed.to(tl.int64))
    tl.store(counts + rows + row, (there - revealed).to(tl.int64))
    tl.store(counts + 2 * rows + row, tl.sum(invalid, 0).to(tl.int64))

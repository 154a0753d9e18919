"""Multiply hidden states by an output head and draw, so that no logits leave the processor: H1.

    logits = hidden weight^T + bias

A program multiplies a block of rows with a part of a tile of 1024 vocabulary ids and leaves, per
row, what K1 leaves of a tile and who wins inside the part.  The race of a tile is one of runs of 32
ids, then of the tokens in the run, against the same 64 exponentials in every tile (the law of
dlm_sampling.ops.categorical), so they are made once per row and the pass itself makes none.

Tables, each [R, parts]; d = (x - m) c, c = log2(e) / temperature:

    PEAK m   SUM sum 2^d   ENTROPY_SUM sum d 2^d   SECOND largest but one
    DRAW_SUM sum 2^d at the temperature of the draw   SPEED of the winning run   LOGIT of its winner
    BEST lowest id with the logit m   WINNER of the race      (these two int32)

Ruiz et al. 2026, "FlashSampling", arXiv:2603.15854, draws a token inside the head's product; here
the race is the one that the kernels over logits run, and the statistics of the law come with it.

No GPU has run this yet; see kernels/STATUS.md.
"""

from __future__ import annotations

import triton
import triton.language as tl

from dlm_kernels.categorical.kernel import RUN, RUNS, TOKEN_STREAM, store_record, totals
from dlm_kernels.common.philox import arrivals
from dlm_kernels.common.race import rough_clocks, winner
from dlm_kernels.common.status import status_of
from dlm_kernels.common.tiles import FLOOR, NATIVE, TILE, gaps, largest, row_of

PEAK, SUM, ENTROPY_SUM, SECOND = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2), tl.constexpr(3)
DRAW_SUM, SPEED, LOGIT = tl.constexpr(4), tl.constexpr(5), tl.constexpr(6)
BEST, WINNER = tl.constexpr(0), tl.constexpr(1)
FIELDS, IDS = tl.constexpr(7), tl.constexpr(2)


@triton.jit
def clock_kernel(keys, positions, steps, sub, rates):
    """Compute the exponentials of each row once; grid (R,).

    rates float32 [R, 64]: 1 / E of the 32 tokens of a run, then of the 32 runs.
    """
    row = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, RUN + RUNS)
    clock = arrivals(
        tl.load(keys + row), tl.load(positions + row), tl.load(steps + row), tl.load(sub), lane,
        TOKEN_STREAM,
    )  # fmt: skip
    tl.store(rates + row * (RUN + RUNS) + lane, (1.0 / clock).to(tl.float32))


@triton.jit
def _product(
    first, second, width, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, EVEN: tl.constexpr
):
    """Return first [BM, width] times second [width, BN], in float32; both are pointers."""
    k = tl.arange(0, BK)
    sums = tl.zeros((BM, BN), tl.float32)
    for start in range(0, width, BK):
        if EVEN:
            a, b = tl.load(first), tl.load(second)
        else:
            inside = k < width - start
            a = tl.load(first, mask=inside[None, :], other=0.0)
            b = tl.load(second, mask=inside[:, None], other=0.0)
        if NATIVE:
            sums = tl.dot(a, b, sums)
        else:  # the interpreter multiplies the bits of bfloat16
            sums = tl.dot(a.to(tl.float32), b.to(tl.float32), sums, input_precision="ieee")
        first += BK
        second += BK
    return sums


@triton.jit
def _allowed(ids, tile, vocab, starts, suppressed):
    """Return which ids of a tile are in the vocabulary and may be drawn."""
    allowed = ids < vocab
    at = tl.load(starts + tile)
    end = tl.load(starts + tile + 1)
    while at < end:
        allowed &= ids != tl.load(suppressed + at)
        at += 1
    return allowed


@triton.jit
def _either(x, chosen, y, other):
    return tl.where(chosen, x, y), chosen | other


@triton.jit
def run_at(x, index, run, NATIVE: tl.constexpr):
    """Return the run `index` [BM, 1, 1] of every row of `x` [BM, runs, 32], as [BM, 1, 32].

    NATIVE: fewer instructions; the interpreter goes through such a reduction number by number.
    """
    if NATIVE:
        chosen = tl.broadcast_to(run == index, x.shape)
        return tl.reduce((x, chosen), 1, _either, keep_dims=True)[0]
    else:
        return tl.sum(tl.where(run == index, x, 0.0), 1, keep_dims=True)


@triton.jit
def largest_along(x, AXIS: tl.constexpr, NATIVE: tl.constexpr):
    """Return the largest along an axis, which is kept; a NaN wins.  NATIVE as in `run_at`."""
    if NATIVE:
        return tl.reduce(x, AXIS, largest, keep_dims=True)
    else:
        odd = tl.max((x != x).to(tl.int32), AXIS, keep_dims=True)
        return tl.where(odd > 0, float("nan"), tl.max(x, AXIS, keep_dims=True))


@triton.jit
def _rounded(x, DTYPE: tl.constexpr):
    """Return the float32 of `x` rounded to a 16-bit type, two at a time where that takes less."""
    if NATIVE and DTYPE.is_bf16():
        return tl.inline_asm_elementwise(
            "{ .reg .b32 t; cvt.rn.bf16x2.f32 t, $3, $2; shl.b32 $0, t, 16; "
            "and.b32 $1, t, 0xffff0000; }",
            "=r,=r,f,f", [x], dtype=tl.int32, is_pure=True, pack=2,
        ).to(tl.float32, bitcast=True)  # fmt: skip
    else:
        return x.to(DTYPE).to(tl.float32)


@triton.jit
def _row(x):
    """Return numbers of rows [BM] as [BM, 1, 1]."""
    return x[:, None, None]


@triton.jit
def _race(x, peak, speeds, inverse, token_rates, run, lane):
    """Return speed of the winning run, and place and logit of the winner, from `speeds` of runs."""
    first = tl.argmax(speeds, 1, not NATIVE, keep_dims=True)
    inside = run_at(x, first, run, NATIVE)
    speed = tl.exp2(gaps(inside, peak) * inverse) * token_rates
    place = tl.argmax(speed, 2, not NATIVE, keep_dims=True)
    logit = tl.max(tl.where(lane == place, inside, float("-inf")), 2, keep_dims=True)
    return tl.max(speeds, 1, keep_dims=True), first * RUN + place, logit


@triton.jit
def _ranked(x, tops, peak, run, lane, HERE: tl.constexpr):
    """Return the place of the first logit equal to the peak, and the largest of all others."""
    top = tl.min(tl.where(tops == peak, run, HERE - 1), 1, keep_dims=True)
    inside = run_at(x, top, run, NATIVE)
    place = tl.min(tl.where(inside == peak, lane, RUN - 1), 2, keep_dims=True)
    second = tl.max(tl.where(lane == place, float("-inf"), inside), 2, keep_dims=True)
    others = tl.max(tl.where(run == top, float("-inf"), tops), 1, keep_dims=True)
    return top * RUN + place, tl.maximum(second, others)


@triton.jit
def head_kernel(
    hidden, weight, bias, rows, rates, table, id_table, starts, suppressed, inverses,
    count, vocab, width, parts, height, stride_hidden, stride_weight, stride_inverse, stride_law,
    HAS_ROWS: tl.constexpr, HAS_BIAS: tl.constexpr, TWO: tl.constexpr, GREEDY: tl.constexpr,
    ROUND: tl.constexpr, EVEN: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    BLOCKS: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """Multiply rows with a part of the vocabulary, and leave its tables.

    Grid (ceil(R / BM) parts,); a part is BLOCKS blocks of BN ids.

    hidden [N, width] and weight [V, width] of one dtype, columns dense; bias [V] of it.  table
    float32 [R, 7, parts], id_table int32 [R, 2, parts].  Neighbouring programs share a part of the
    weight and, GROUP blocks at a time, their rows.  An index of -1 is no row: it leaves the tables
    of a row of -inf, and a block of nothing else is not multiplied.
    """
    program, blocks = tl.program_id(0), tl.cdiv(count, BM)
    group = program // (GROUP * parts)
    members = tl.minimum(blocks - group * GROUP, GROUP)
    inside = program - group * GROUP * parts
    part = inside // members
    row = (group * GROUP + inside % members) * BM + tl.arange(0, BM)
    here = row < count
    row = tl.minimum(row, count - 1)
    source = row_of(rows, row, height, HAS_ROWS).to(tl.int64)
    turns, there = BLOCKS, here
    if HAS_ROWS:
        there = tl.load(rows + row) >= 0
        turns = tl.max(there.to(tl.int32), 0) * BLOCKS
    k, column = tl.arange(0, BK), tl.arange(0, BN)
    run, lane = tl.arange(0, BN // RUN)[None, :, None], tl.arange(0, RUN)[None, None, :]
    # Numbers of rows are [BM, 1, 1] from here on, in the layout of the product's result.
    inverse = _row(tl.load(inverses + row * stride_inverse))
    draw_inverse = _row(tl.load(inverses + stride_law + row * stride_inverse))
    rates += _row(row.to(tl.int64)) * (RUN + RUNS)
    token_rates = tl.load(rates + lane)
    start = part * (BLOCKS * BN)
    tile = start // TILE
    zero = inverse * 0.0
    peak, second, logit = zero + float("-inf"), zero + float("-inf"), zero + float("-inf")
    s, t, draw_sum, speed = zero, zero, zero, zero
    best = _row(row * 0 + start)
    winner = best
    for _ in range(tl.minimum(tl.cdiv(vocab - start, BN), turns)):
        ids = start + column
        place = tl.minimum(ids, vocab - 1).to(tl.int64)
        # Loaded before the product, so that these take the layout of its result.
        run_rates = tl.load(rates + (start % TILE) // RUN + RUN + run)
        x = _product(
            hidden + source[:, None] * stride_hidden + k[None, :],
            weight + place[None, :] * stride_weight + k[:, None],
            width, BM, BN, BK, EVEN,
        )  # fmt: skip
        if HAS_BIAS:
            x += tl.load(bias + place).to(tl.float32)[None, :]
        if ROUND:
            x = _rounded(x, weight.dtype.element_ty)
        if (start + BN > vocab) | (tl.load(starts + tile) < tl.load(starts + tile + 1)):
            allowed = _allowed(ids, tile, vocab, starts, suppressed)
            x = tl.where(allowed[None, :], x, float("-inf"))
        x = tl.reshape(x, (BM, BN // RUN, RUN))
        tops = largest_along(x, 2, NATIVE)
        top = largest_along(tops, 1, NATIVE)
        gap = gaps(x, top)
        d = tl.maximum(gap * inverse, FLOOR)
        law = tl.exp2(d)
        runs = tl.sum(law, 2, keep_dims=True)
        sums = tl.sum(runs, 1, keep_dims=True)
        entropy_sums = tl.sum(tl.sum(law * d, 1, keep_dims=True), 2, keep_dims=True)
        new = largest(peak, top)
        fall, fall_new = gaps(peak, new), gaps(top, new)
        d_old, d_new = tl.maximum(fall * inverse, FLOOR), tl.maximum(fall_new * inverse, FLOOR)
        old, mine = tl.exp2(d_old), tl.exp2(d_new)
        t = old * (t + s * d_old) + mine * (entropy_sums + sums * d_new)
        s = old * s + mine * sums
        found, runner_up = _ranked(x, tops, top, run, lane, BN // RUN)
        best = tl.where(top > peak, start + found, best)
        second = tl.maximum(tl.maximum(second, runner_up), tl.minimum(peak, top))
        if GREEDY != 1:
            old, mine = tl.exp2(fall * draw_inverse), tl.exp2(fall_new * draw_inverse)
            if TWO:
                runs = tl.sum(tl.exp2(gap * draw_inverse), 2, keep_dims=True)
                draw_sum = old * draw_sum + mine * tl.sum(runs, 1, keep_dims=True)
            new_speed, found, new_logit = _race(
                x, top, runs * run_rates, draw_inverse, token_rates, run, lane
            )
            speed, new_speed = speed * old, new_speed * mine
            ahead = new_speed > speed
            speed = tl.where(ahead, new_speed, speed)
            winner = tl.where(ahead, start + found, winner)
            logit = tl.where(ahead, new_logit, logit)
        peak = new
        start += BN
    row, here, there = _row(row.to(tl.int64)), _row(here), _row(there)
    table += row * (FIELDS * parts) + part
    id_table += row * (IDS * parts) + part
    tl.store(table + PEAK * parts, tl.where(there, peak, float("-inf")), mask=here)
    tl.store(table + SUM * parts, tl.where(there, s, 0.0), mask=here)
    tl.store(table + ENTROPY_SUM * parts, tl.where(there, t, 0.0), mask=here)
    tl.store(table + SECOND * parts, second, mask=here)
    tl.store(id_table + BEST * parts, best, mask=here)
    if GREEDY != 1:
        if TWO:
            tl.store(table + DRAW_SUM * parts, tl.where(there, draw_sum, 0.0), mask=here)
        tl.store(table + SPEED * parts, speed, mask=here)
        tl.store(table + LOGIT * parts, logit, mask=here)
        tl.store(id_table + WINNER * parts, winner, mask=here)


@triton.jit
def race_kernel(
    rows, table, id_table, inverses, keys, positions, steps, sub, token, record, status,
    count, vocab, parts, height, stride_inverse, stride_law,
    HAS_ROWS: tl.constexpr, TWO: tl.constexpr, GREEDY: tl.constexpr, TILES: tl.constexpr,
    SPLIT: tl.constexpr,
):  # fmt: skip
    """Run the race of the tiles from tables of SPLIT parts a tile, and write K2's results.

    Grid (R,).

    token int64 [R], record float32 [6, R] in the order of DrawRecord, status int32 [R].
    """
    row = tl.program_id(0).to(tl.int64)
    inverses += row * stride_inverse
    inverse = tl.load(inverses)
    table += row * (FIELDS * parts)
    id_table += row * (IDS * parts)
    at = tl.arange(0, TILES * SPLIT)
    inside = at < parts
    peaks = tl.load(table + PEAK * parts + at, mask=inside, other=float("-inf"))
    sums = tl.load(table + SUM * parts + at, mask=inside, other=0.0)
    entropy_sums = tl.load(table + ENTROPY_SUM * parts + at, mask=inside, other=0.0)
    if GREEDY != 1:
        # Asked for with the others, and waited for together.
        draw_inverse = tl.load(inverses + stride_law)
        draw_sums = sums
        if TWO:
            draw_sums = tl.load(table + DRAW_SUM * parts + at, mask=inside, other=0.0)
        speed = tl.load(table + SPEED * parts + at, mask=inside, other=0.0)
        key, position = tl.load(keys + row), tl.load(positions + row)
        step, draw = tl.load(steps + row), tl.load(sub)
        lane = tl.arange(0, TILES) + (RUN + RUNS)
        clock = rough_clocks(key, position, step, draw, lane, TOKEN_STREAM)
    peak, total, log_total, entropy = totals(peaks, sums, entropy_sums, inverse)
    part = tl.min(tl.where(peaks == peak, at, parts - 1), 0)
    best = tl.load(id_table + BEST * parts + part)
    others = tl.max(tl.where(at == part, float("-inf"), peaks), 0)
    second = tl.maximum(tl.load(table + SECOND * parts + part), others)
    drawn, found, mass = best, peak, total
    if GREEDY != 1:
        weight = draw_sums.to(tl.float64) * tl.exp2(gaps(peaks, peak) * draw_inverse).to(tl.float64)
        mass = tl.sum(weight, 0)
        weights = tl.sum(tl.reshape(weight, (TILES, SPLIT)), 1)
        tile = winner(weights, clock, key, position, step, draw, lane, TOKEN_STREAM)
        here = at // SPLIT == tile
        top = tl.max(tl.where(here, peaks, float("-inf")), 0)
        # Of the runs that won in the parts of the tile, the fastest.
        speed = tl.where(here, speed * tl.exp2(gaps(peaks, top) * draw_inverse), -1.0)
        part = tl.min(tl.where(speed == tl.max(speed, 0), at, parts - 1), 0)
        drawn = tl.load(id_table + WINNER * parts + part)
        found = tl.load(table + LOGIT * parts + part)
    store_record(
        token, record, status, row, count, vocab, inverses, stride_law, peak, total, log_total,
        entropy, best, second, drawn, found, mass, status_of(peak, rows, row, height, HAS_ROWS),
        GREEDY,
    )  # fmt: skip

"""Turn the numbers that tiles left of a row into a token and the statistics of its law: K2.

One program per row.  The twin of dlm_sampling.ops.categorical: a race of tiles, then of runs of 32
ids in the tile, then of tokens in the run, with the same random numbers.  It reads the tile sums,
the winning tile and the tile of the largest logit.

No GPU has run this yet; see kernels/STATUS.md.
"""

from __future__ import annotations

import triton
import triton.language as tl

from dlm_kernels.common.race import rough_clocks, winner
from dlm_kernels.common.status import status_of
from dlm_kernels.common.tiles import (
    ALONE,
    FLOOR,
    LN2,
    TILE,
    gaps,
    largest,
    read,
    row_of,
    suppress_between,
)
from dlm_kernels.filters.kernel import keeps

RUN = tl.constexpr(32)
RUNS = tl.constexpr(32)  # runs per tile
TOKEN_STREAM = tl.constexpr(0)


@triton.jit
def _race(
    logits, other, x, tile, first_bad, last_bad, top, peak, token_clock, run_clock, key, position,
    step, sub, suppressed, vocab, stride_id, stride_other_id, mix0, mix1, inverse, cut, last, least,
    MIX: tl.constexpr, FILTERS: tl.constexpr, SHIFT: tl.constexpr,
):  # fmt: skip
    """Return the token drawn from the tile with the logits `x` [32, 32], and its logit."""
    lane = tl.arange(0, RUN)
    if FILTERS:
        ids = tile * TILE + lane[:, None] * RUN + lane[None, :]
        x = tl.where(keeps(x, ids, peak, inverse, cut, last, least, SHIFT), x, float("-inf"))
    runs = tl.sum(tl.exp2(gaps(x, top) * inverse), 1)
    run = winner(runs, run_clock, key, position, step, sub, lane + RUN, TOKEN_STREAM)
    ids = tile * TILE + run * RUN + lane
    x = read(logits, other, ids, vocab, stride_id, stride_other_id, mix0, mix1, MIX)
    x = suppress_between(x, ids, first_bad, last_bad, suppressed)
    if FILTERS:
        x = tl.where(keeps(x, ids, peak, inverse, cut, last, least, SHIFT), x, float("-inf"))
    weight = tl.exp2(gaps(x, top) * inverse)
    place = winner(weight, token_clock, key, position, step, sub, lane, TOKEN_STREAM)
    found = tl.max(tl.where(lane == place, x, float("-inf")), 0)
    return tile * TILE + run * RUN + place, found


@triton.jit
def _greedy(x, ids, tile, peaks, peak, vocab, TILES: tl.constexpr):
    """Return the lowest id with the largest logit, and the largest logit of all other ids."""
    token = tl.min(tl.where(x == peak, ids, vocab - 1), 0)
    inside = tl.max(tl.where(ids == token, float("-inf"), x), 0)
    outside = tl.max(tl.where(tl.arange(0, TILES) == tile, float("-inf"), peaks), 0)
    return token, tl.maximum(inside, outside)


@triton.jit
def totals(peaks, sums, entropy_sums, inverse):
    """Return the largest logit of a row, its total, the log of that and entropy, from its tiles."""
    peak = tl.reduce(peaks, 0, largest)
    d = tl.maximum(gaps(peaks, peak) * inverse, FLOOR)
    ratio, s = tl.exp2(d).to(tl.float64), sums.to(tl.float64)
    turned = ratio * (entropy_sums.to(tl.float64) + s * d.to(tl.float64))
    total, turned = tl.reduce((s * ratio, turned), 0, _both)
    log_total = tl.log(total)
    return peak, total, log_total, log_total - turned * LN2 / total


@triton.jit
def _both(a, b, more_a, more_b):
    """Return two sums."""
    return a + more_a, b + more_b


@triton.jit
def store_record(
    token, record, status, row, count, vocab, inverses, stride_law, peak, total, log_total, entropy,
    best, second, drawn, found, mass, verdict, GREEDY: tl.constexpr,
):  # fmt: skip
    """Write the token of a row, the record in the order of DrawRecord, and the status.

    best is the argmax and `second` the largest logit of all others; `drawn` won the race, has the
    logit `found`, and `mass` is the total of the law that it was drawn from.
    """
    inverse = tl.load(inverses)
    chosen, logit, logprob = best, peak, total * 0.0
    if GREEDY != 1:
        draw_inverse = tl.load(inverses + stride_law)
        fall = gaps(found, peak).to(tl.float64) * draw_inverse * LN2 - tl.log(mass)
        if GREEDY == 2:
            argmax = tl.load(inverses + 2 * stride_law) > 0.0
            chosen = tl.where(argmax, best, drawn)
            logit = tl.where(argmax, peak, found)
            logprob = tl.where(argmax, 0.0, fall)
        else:
            chosen, logit, logprob = drawn, found, fall
    confidence = gaps(logit, peak).to(tl.float64) * inverse * LN2 - log_total
    margin = (1.0 - tl.exp(gaps(second, peak).to(tl.float64) * inverse * LN2)) / total
    # A row without a law still gets an id of the vocabulary; its status tells.
    tl.store(token + row, tl.minimum(chosen, vocab - 1).to(tl.int64))
    tl.store(status + row, verdict)
    record += row
    tl.store(record, tl.minimum(logprob, 0.0).to(tl.float32))
    tl.store(record + count, tl.minimum(confidence, 0.0).to(tl.float32))
    tl.store(record + 2 * count, (-log_total).to(tl.float32))
    tl.store(record + 3 * count, margin.to(tl.float32))
    tl.store(record + 4 * count, tl.maximum(entropy, 0.0).to(tl.float32))
    tl.store(record + 5 * count, (peak.to(tl.float64) * inverse * LN2 + log_total).to(tl.float32))


@triton.jit
def draw_kernel(
    logits, other, rows, tile_max, sums, entropy_sums, draw_sums, starts, suppressed, inverses, mix,
    keys, positions, steps, sub, token, record, status, cuts, lasts, sizes, limits,
    count, vocab, tiles, height, stride_row, stride_id, stride_other_row, stride_other_id,
    stride_inverse, stride_law, stride_mix, stride_mix_row,
    HAS_ROWS: tl.constexpr, MIX: tl.constexpr, GREEDY: tl.constexpr, FILTERS: tl.constexpr,
    LAW_STATISTICS: tl.constexpr, SHIFT: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """Draw the token of each row from its tiles; grid (R,).

    token int64 [R], record float32 [6, R] in the order of DrawRecord, status int32.
    GREEDY: 1 if every row takes the argmax, 0 if none, 2 if `inverses` says which.  With FILTERS
    `draw_sums` holds sums of the tokens that pass; with LAW_STATISTICS so do the two before it.
    """
    row = tl.program_id(0).to(tl.int64)
    source = row_of(rows, row, height, HAS_ROWS)
    logits += source * stride_row
    inverses += row * stride_inverse
    inverse = tl.load(inverses)
    mix0, mix1 = inverse, inverse
    if MIX != ALONE:
        other += source * stride_other_row
        mix0 = tl.load(mix + source * stride_mix_row)
        mix1 = tl.load(mix + stride_mix + source * stride_mix_row)
    # What needs no number of a tile is asked for at once, and waited for together.
    lane = tl.arange(0, TILES)
    inside = lane < tiles
    at = row * tiles + lane
    peaks = tl.load(tile_max + at, mask=inside, other=float("-inf"))
    kept_sums = tl.load(sums + at, mask=inside, other=0.0)
    kept_entropy_sums = tl.load(entropy_sums + at, mask=inside, other=0.0)
    lone = peaks == float("inf")
    if LAW_STATISTICS:
        lone = tl.load(sizes + row) < 2
    if GREEDY != 1:
        draw_inverse = tl.load(inverses + stride_law)
        weight = tl.load(draw_sums + at, mask=inside, other=0.0).to(tl.float64)
        key, position = tl.load(keys + row), tl.load(positions + row)
        step, draw = tl.load(steps + row), tl.load(sub)
        cut, last, least = row, row, inverse
        if FILTERS:
            cut, last = tl.load(cuts + row), tl.load(lasts + row)
            least = tl.load(limits + 2).to(tl.float32)
        small = tl.arange(0, RUN)
        token_clock = rough_clocks(key, position, step, draw, small, TOKEN_STREAM)
        run_clock = rough_clocks(key, position, step, draw, small + RUN, TOKEN_STREAM)
        clock = rough_clocks(key, position, step, draw, lane + (RUN + RUNS), TOKEN_STREAM)
    # Then both tiles.
    peak = tl.reduce(peaks, 0, largest)
    best_tile = tl.min(tl.where(peaks == peak, lane, tiles - 1), 0)  # the last with NaN
    best_ids = best_tile * TILE + tl.arange(0, TILE)
    x = read(logits, other, best_ids, vocab, stride_id, stride_other_id, mix0, mix1, MIX)
    bad, end_bad = tl.load(starts + best_tile), tl.load(starts + best_tile + 1)
    if GREEDY != 1:
        weight *= tl.exp2(gaps(peaks, peak) * draw_inverse).to(tl.float64)
        tile = winner(weight, clock, key, position, step, draw, lane + (RUN + RUNS), TOKEN_STREAM)
        tile = tl.minimum(tile, tiles - 1)
        grid = tl.arange(0, RUNS)[:, None] * RUN + tl.arange(0, RUN)[None, :]
        ids = tile * TILE + grid
        y = read(logits, other, ids, vocab, stride_id, stride_other_id, mix0, mix1, MIX)
        first_bad, last_bad = tl.load(starts + tile), tl.load(starts + tile + 1)
        top = tl.load(tile_max + row * tiles + tile)
    peak, total, log_total, entropy = totals(peaks, kept_sums, kept_entropy_sums, inverse)
    x = suppress_between(x, best_ids, bad, end_bad, suppressed)
    best, second = _greedy(x, best_ids, best_tile, peaks, peak, vocab, TILES)
    if LAW_STATISTICS:
        second = tl.where(lone, float("-inf"), second)
    drawn, found, mass = best, peak, total
    if GREEDY != 1:
        mass = tl.sum(weight, 0)
        y = suppress_between(y, ids, first_bad, last_bad, suppressed)
        drawn, found = _race(
            logits, other, y, tile, first_bad, last_bad, top, peak, token_clock, run_clock, key,
            position, step, draw, suppressed, vocab, stride_id, stride_other_id, mix0, mix1,
            draw_inverse, cut, last, least, MIX, FILTERS, SHIFT,
        )  # fmt: skip
    store_record(
        token, record, status, row, count, vocab, inverses, stride_law, peak, total, log_total,
        entropy, best, second, drawn, found, mass, status_of(peak, rows, row, height, HAS_ROWS),
        GREEDY,
    )  # fmt: skip

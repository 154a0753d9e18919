"""Turn the numbers that tiles left of a row into a token and the statistics of its law: K2.

One program per row.  The twin of dlm_sampling.ops.categorical: a race of tiles, then of runs of 32
ids in the tile, then of tokens in the run, with the same random numbers.  It reads the tile sums,
the winning tile and the tile of the largest logit.

No GPU has run this yet; see kernels/STATUS.md.
"""

from __future__ import annotations

import triton
import triton.language as tl

from dlm_kernels.common.philox import arrivals
from dlm_kernels.common.status import status_of
from dlm_kernels.common.tiles import ALONE, FLOOR, LN2, TILE, gaps, largest, load, row_of
from dlm_kernels.filters.kernel import keeps

RUN = tl.constexpr(32)
RUNS = tl.constexpr(32)  # runs per tile
TOKEN_STREAM = tl.constexpr(0)


@triton.jit
def _race(
    logits, other, weight, peaks, peak, key, position, step, sub, starts, suppressed, vocab,
    stride_id, stride_other_id, mix0, mix1, inverse, cut, last, least,
    MIX: tl.constexpr, FILTERS: tl.constexpr, SHIFT: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """Return the token drawn and its logit; `weight` float64 [TILES] are the sums of the tiles."""
    lane = tl.arange(0, RUN)
    tiles = tl.arange(0, TILES)
    clock = arrivals(key, position, step, sub, tiles + (RUN + RUNS), TOKEN_STREAM)
    tile = tl.argmax(weight / clock, 0)
    top = tl.max(tl.where(tiles == tile, peaks, float("-inf")), 0)
    ids = tile * TILE + lane[:, None] * RUN + lane[None, :]
    x = load(logits, other, ids, tile, starts, suppressed, vocab, stride_id, stride_other_id,
             mix0, mix1, MIX)  # fmt: skip
    if FILTERS:
        x = tl.where(keeps(x, ids, peak, inverse, cut, last, least, SHIFT), x, float("-inf"))
    runs = tl.sum(tl.exp2(gaps(x, top) * inverse), 1).to(tl.float64)
    clock = arrivals(key, position, step, sub, lane + RUN, TOKEN_STREAM)
    first = tile * TILE + tl.argmax(runs / clock, 0) * RUN
    x = load(logits, other, first + lane, tile, starts, suppressed, vocab, stride_id,
             stride_other_id, mix0, mix1, MIX)  # fmt: skip
    if FILTERS:
        x = tl.where(
            keeps(x, first + lane, peak, inverse, cut, last, least, SHIFT), x, float("-inf")
        )
    clock = arrivals(key, position, step, sub, lane, TOKEN_STREAM)
    place = tl.argmax(tl.exp2(gaps(x, top) * inverse).to(tl.float64) / clock, 0)
    return first + place, tl.max(tl.where(lane == place, x, float("-inf")), 0)


@triton.jit
def _greedy(
    logits, other, peaks, peak, starts, suppressed, vocab, stride_id, stride_other_id, mix0, mix1,
    MIX: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """Return the lowest id with the largest logit, and the largest logit of all other ids."""
    tiles = tl.arange(0, TILES)
    tile = tl.min(tl.where(peaks == peak, tiles, TILES - 1), 0)
    ids = tile * TILE + tl.arange(0, TILE)
    x = load(logits, other, ids, tile, starts, suppressed, vocab, stride_id, stride_other_id,
             mix0, mix1, MIX)  # fmt: skip
    token = tl.min(tl.where(x == peak, ids, vocab - 1), 0)
    inside = tl.max(tl.where(ids == token, float("-inf"), x), 0)
    outside = tl.max(tl.where(tiles == tile, float("-inf"), peaks), 0)
    return token, tl.maximum(inside, outside)


@triton.jit
def totals(peaks, sums, entropy_sums, inverse):
    """Return the largest logit of a row, gaps to it, total, its log and entropy, from its tiles."""
    peak = tl.reduce(peaks, 0, largest)
    gap = gaps(peaks, peak)
    d = tl.maximum(gap * inverse, FLOOR)
    ratio, s = tl.exp2(d).to(tl.float64), sums.to(tl.float64)
    total = tl.sum(s * ratio, 0)
    log_total = tl.log(total)
    turned = ratio * (entropy_sums.to(tl.float64) + s * d.to(tl.float64))
    return peak, gap, total, log_total, log_total - tl.sum(turned, 0) * LN2 / total


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
    lane = tl.arange(0, TILES)
    inside = lane < tiles
    at = row * tiles + lane
    peaks = tl.load(tile_max + at, mask=inside, other=float("-inf"))
    peak, gap, total, log_total, entropy = totals(
        peaks, tl.load(sums + at, mask=inside, other=0.0),
        tl.load(entropy_sums + at, mask=inside, other=0.0), inverse,
    )  # fmt: skip
    best, second = _greedy(logits, other, peaks, peak, starts, suppressed, vocab, stride_id,
                           stride_other_id, mix0, mix1, MIX, TILES)  # fmt: skip
    if LAW_STATISTICS:
        second = tl.where(tl.load(sizes + row) < 2, float("-inf"), second)
    drawn, found, mass = best, peak, total
    if GREEDY != 1:
        draw_inverse = tl.load(inverses + stride_law)
        weight = tl.load(draw_sums + at, mask=inside, other=0.0).to(tl.float64)
        weight *= tl.exp2(gap * draw_inverse).to(tl.float64)
        mass = tl.sum(weight, 0)
        cut, last, least = row, row, peak
        if FILTERS:
            cut, last = tl.load(cuts + row), tl.load(lasts + row)
            least = tl.load(limits + 2).to(tl.float32)
        drawn, found = _race(
            logits, other, weight, peaks, peak, tl.load(keys + row), tl.load(positions + row),
            tl.load(steps + row), tl.load(sub), starts, suppressed, vocab, stride_id,
            stride_other_id, mix0, mix1, draw_inverse, cut, last, least,
            MIX, FILTERS, SHIFT, TILES,
        )  # fmt: skip
    store_record(
        token, record, status, row, count, vocab, inverses, stride_law, peak, total, log_total,
        entropy, best, second, drawn, found, mass, status_of(peak, rows, row, height, HAS_ROWS),
        GREEDY,
    )  # fmt: skip

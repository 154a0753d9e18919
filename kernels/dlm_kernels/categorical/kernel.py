"""K2: one program per row turns what the tiles left into a token and the statistics of its law.

The twin of dlm_sampling.ops.categorical: a race of tiles, then of runs of 32 ids in the tile, then
of tokens in the run, with the same random numbers.  Reads the tile sums, the winning tile and the
tile of the largest logit.

No GPU has run this yet; see kernels/STATUS.md.
"""

from __future__ import annotations

import triton
import triton.language as tl

from dlm_kernels.common.philox import arrivals
from dlm_kernels.common.tiles import ALONE, FLOOR, LN2, TILE, gaps, largest, load, row_of
from dlm_kernels.filters.kernel import keeps

RUN = tl.constexpr(32)
RUNS = tl.constexpr(32)  # runs per tile
TOKEN_STREAM = tl.constexpr(0)

FINE = tl.constexpr(0)
NO_TOKEN = tl.constexpr(1)  # every logit of the row is -inf
NOT_A_NUMBER = tl.constexpr(2)
INFINITE = tl.constexpr(3)
NO_ROW = tl.constexpr(4)  # the logits have no such row


@triton.jit
def status_of(peak, rows, row, height, HAS_ROWS: tl.constexpr):
    """Whether a row with this largest logit defines a law, and is there at all."""
    found = tl.where(peak == float("-inf"), NO_TOKEN, FINE)
    found = tl.where(peak == float("inf"), INFINITE, found)
    found = tl.where(peak != peak, NOT_A_NUMBER, found)
    if HAS_ROWS:
        asked = tl.load(rows + row)
        found = tl.where((asked < 0) | (asked >= height), NO_ROW, found)
    return found


@triton.jit
def _race(
    logits, other, weight, peaks, peak, key, position, step, sub, starts, suppressed, vocab,
    stride_id, stride_other_id, mix0, mix1, scale, cut, last, least,
    MIX: tl.constexpr, FILTERS: tl.constexpr, SHIFT: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """The token drawn and its logit; `weight` float64 [TILES] are the sums of the tiles."""
    lane = tl.arange(0, RUN)
    tiles = tl.arange(0, TILES)
    clock = arrivals(key, position, step, sub, tiles + (RUN + RUNS), TOKEN_STREAM)
    tile = tl.argmax(weight / clock, 0)
    top = tl.max(tl.where(tiles == tile, peaks, float("-inf")), 0)
    ids = tile * TILE + lane[:, None] * RUN + lane[None, :]
    x = load(logits, other, ids, tile, starts, suppressed, vocab, stride_id, stride_other_id,
             mix0, mix1, MIX)  # fmt: skip
    if FILTERS:
        x = tl.where(keeps(x, ids, peak, scale, cut, last, least, SHIFT), x, float("-inf"))
    runs = tl.sum(tl.exp2(gaps(x, top) * scale), 1).to(tl.float64)
    clock = arrivals(key, position, step, sub, lane + RUN, TOKEN_STREAM)
    first = tile * TILE + tl.argmax(runs / clock, 0) * RUN
    x = load(logits, other, first + lane, tile, starts, suppressed, vocab, stride_id,
             stride_other_id, mix0, mix1, MIX)  # fmt: skip
    if FILTERS:
        x = tl.where(keeps(x, first + lane, peak, scale, cut, last, least, SHIFT), x, float("-inf"))
    clock = arrivals(key, position, step, sub, lane, TOKEN_STREAM)
    place = tl.argmax(tl.exp2(gaps(x, top) * scale).to(tl.float64) / clock, 0)
    return first + place, tl.max(tl.where(lane == place, x, float("-inf")), 0)


@triton.jit
def _greedy(
    logits, other, peaks, peak, starts, suppressed, vocab, stride_id, stride_other_id, mix0, mix1,
    MIX: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """The lowest id with the largest logit, and the largest logit of all other ids."""
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
def totals(peaks, sums, cross, scale):
    """Of a row, from what its tiles left: largest logit, gaps to it, total, its log, entropy."""
    peak = tl.reduce(peaks, 0, largest)
    gap = gaps(peaks, peak)
    d = tl.maximum(gap * scale, FLOOR)
    ratio, s = tl.exp2(d).to(tl.float64), sums.to(tl.float64)
    total = tl.sum(s * ratio, 0)
    log_total = tl.log(total)
    turned = ratio * (cross.to(tl.float64) + s * d.to(tl.float64))
    return peak, gap, total, log_total, log_total - tl.sum(turned, 0) * LN2 / total


@triton.jit
def leave(
    token, record, status, row, count, vocab, scales, stride_law, peak, total, log_total, entropy,
    best, second, drawn, found, mass, verdict, GREEDY: tl.constexpr,
):  # fmt: skip
    """Write the token of a row, the record in the order of Draw, and the status.

    best is the argmax and `second` the largest logit of all others; `drawn` won the race, has the
    logit `found`, and `mass` is the total of the law that it was drawn from.
    """
    scale = tl.load(scales)
    chosen, logit, logprob = best, peak, total * 0.0
    if GREEDY != 1:
        scale_sampled = tl.load(scales + stride_law)
        fall = gaps(found, peak).to(tl.float64) * scale_sampled * LN2 - tl.log(mass)
        if GREEDY == 2:
            cold = tl.load(scales + 2 * stride_law) > 0.0
            chosen = tl.where(cold, best, drawn)
            logit = tl.where(cold, peak, found)
            logprob = tl.where(cold, 0.0, fall)
        else:
            chosen, logit, logprob = drawn, found, fall
    confidence = gaps(logit, peak).to(tl.float64) * scale * LN2 - log_total
    margin = (1.0 - tl.exp(gaps(second, peak).to(tl.float64) * scale * LN2)) / total
    # A row without a law still gets an id of the vocabulary; its status tells.
    tl.store(token + row, tl.minimum(chosen, vocab - 1).to(tl.int64))
    tl.store(status + row, verdict)
    record += row
    tl.store(record, tl.minimum(logprob, 0.0).to(tl.float32))
    tl.store(record + count, tl.minimum(confidence, 0.0).to(tl.float32))
    tl.store(record + 2 * count, (-log_total).to(tl.float32))
    tl.store(record + 3 * count, margin.to(tl.float32))
    tl.store(record + 4 * count, tl.maximum(entropy, 0.0).to(tl.float32))
    tl.store(record + 5 * count, (peak.to(tl.float64) * scale * LN2 + log_total).to(tl.float32))


@triton.jit
def finish_kernel(
    logits, other, rows, tile_max, sums, cross, sampled, starts, suppressed, scales, mix,
    keys, positions, steps, sub, token, record, status, cuts, lasts, sizes, limits,
    count, vocab, tiles, height, stride_row, stride_id, stride_other_row, stride_other_id,
    stride_scale, stride_law, stride_mix, stride_mix_row,
    HAS_ROWS: tl.constexpr, MIX: tl.constexpr, GREEDY: tl.constexpr, FILTERS: tl.constexpr,
    VIEWED: tl.constexpr, SHIFT: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """Grid (R,).  token int64 [R], record float32 [6, R] in the order of Draw, status int32 [R].

    GREEDY: 1 if every row takes the argmax, 0 if none, 2 if `scales` says which.  With FILTERS
    `sampled` holds sums of the tokens that pass; with VIEWED so do `sums` and `cross`.
    """
    row = tl.program_id(0).to(tl.int64)
    source = row_of(rows, row, height, HAS_ROWS)
    logits += source * stride_row
    scales += row * stride_scale
    scale = tl.load(scales)
    mix0, mix1 = scale, scale
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
        tl.load(cross + at, mask=inside, other=0.0), scale,
    )  # fmt: skip
    best, second = _greedy(logits, other, peaks, peak, starts, suppressed, vocab, stride_id,
                           stride_other_id, mix0, mix1, MIX, TILES)  # fmt: skip
    if VIEWED:
        second = tl.where(tl.load(sizes + row) < 2, float("-inf"), second)
    drawn, found, mass = best, peak, total
    if GREEDY != 1:
        scale_sampled = tl.load(scales + stride_law)
        weight = tl.load(sampled + at, mask=inside, other=0.0).to(tl.float64)
        weight *= tl.exp2(gap * scale_sampled).to(tl.float64)
        mass = tl.sum(weight, 0)
        cut, last, least = row, row, peak
        if FILTERS:
            cut, last = tl.load(cuts + row), tl.load(lasts + row)
            least = tl.load(limits + 2).to(tl.float32)
        drawn, found = _race(
            logits, other, weight, peaks, peak, tl.load(keys + row), tl.load(positions + row),
            tl.load(steps + row), tl.load(sub), starts, suppressed, vocab, stride_id,
            stride_other_id, mix0, mix1, scale_sampled, cut, last, least,
            MIX, FILTERS, SHIFT, TILES,
        )  # fmt: skip
    leave(
        token, record, status, row, count, vocab, scales, stride_law, peak, total, log_total,
        entropy, best, second, drawn, found, mass, status_of(peak, rows, row, height, HAS_ROWS),
        GREEDY,
    )  # fmt: skip

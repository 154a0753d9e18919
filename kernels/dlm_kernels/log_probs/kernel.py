"""Compute log-probabilities under the sampled law in a Triton kernel."""

from __future__ import annotations

import triton
import triton.language as tl

from dlm_kernels.common.status import status_of
from dlm_kernels.common.tiles import ALONE, LN2, TILE, gaps, largest, load, row_of
from dlm_kernels.filters.kernel import keeps


@triton.jit
def log_probs_kernel(
    logits, other, rows, tile_max, sums, entropy_sums, draw_sums, starts, suppressed, inverses, mix,
    tokens, out, status, cuts, lasts, sizes, limits,
    vocab, tiles, height, stride_row, stride_id, stride_other_row, stride_other_id,
    stride_inverse, stride_law, stride_mix, stride_mix_row,
    HAS_ROWS: tl.constexpr, MIX: tl.constexpr, GREEDY: tl.constexpr, FILTERS: tl.constexpr,
    EVERY: tl.constexpr, SHIFT: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """Compute log-probabilities of given tokens, grid (R,), or of every token, grid (R, tiles).

    EVERY chooses the second.  out float32 [R], or [R, vocab] if EVERY.
    """
    row = tl.program_id(0).to(tl.int64)
    source = row_of(rows, row, height, HAS_ROWS)
    logits += source * stride_row
    inverses += row * stride_inverse
    inverse = tl.load(inverses + stride_law)
    mix0, mix1 = inverse, inverse
    if MIX != ALONE:
        other += source * stride_other_row
        mix0 = tl.load(mix + source * stride_mix_row)
        mix1 = tl.load(mix + stride_mix + source * stride_mix_row)
    lane = tl.arange(0, TILES)
    inside = lane < tiles
    peaks = tl.load(tile_max + row * tiles + lane, mask=inside, other=float("-inf"))
    peak = tl.reduce(peaks, 0, largest)
    s = tl.load(draw_sums + row * tiles + lane, mask=inside, other=0.0).to(tl.float64)
    log_total = tl.log(tl.sum(s * tl.exp2(gaps(peaks, peak) * inverse).to(tl.float64), 0))
    if EVERY:
        tile = tl.program_id(1)
        ids = tile * TILE + tl.arange(0, TILE)
    else:
        token = tl.load(tokens + row)
        known = (token >= 0) & (token < vocab)
        ids = tl.where(known, token, 0).to(tl.int32) + tl.arange(0, 1)
        tile = tl.max(ids, 0) // TILE
    x = load(logits, other, ids, tile, starts, suppressed, vocab, stride_id, stride_other_id,
             mix0, mix1, MIX)  # fmt: skip
    value = gaps(x, peak).to(tl.float64) * inverse * LN2 - log_total
    if FILTERS:
        cut, last = tl.load(cuts + row), tl.load(lasts + row)
        least = tl.load(limits + 2).to(tl.float32)
        value = tl.where(
            keeps(x, ids, peak, inverse, cut, last, least, SHIFT), value, float("-inf")
        )
    if GREEDY:
        top = tl.min(tl.where(peaks == peak, lane, tiles - 1), 0)  # the last with NaN
        near = top * TILE + tl.arange(0, TILE)
        x = load(logits, other, near, top, starts, suppressed, vocab, stride_id, stride_other_id,
                 mix0, mix1, MIX)  # fmt: skip
        best = tl.min(tl.where(x == peak, near, vocab - 1), 0)
        argmax = tl.load(inverses + 2 * stride_law) > 0.0
        value = tl.where(argmax, tl.where(ids == best, 0.0, float("-inf")), value)
    value = tl.minimum(value, 0.0).to(tl.float32)
    if EVERY:
        tl.store(out + row * vocab + ids, value, mask=ids < vocab)
    else:
        tl.store(out + row + tl.arange(0, 1), tl.where(known, value, float("nan")))
    tl.store(status + row, status_of(peak, rows, row, height, HAS_ROWS))

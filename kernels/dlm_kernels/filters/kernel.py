"""Find where top-k, top-p and min-p cut a row, in one program per row and without a sort.

The twin of dlm_sampling.ops.filters.  The tokens kept are a head of the order (logit descending, id
ascending), so a cut is one logit and one id.  A logit is mapped to an unsigned key of its order; a
turn asks for 16 keys between two bounds how many tokens, or how much mass, reach each of them, and
keeps the sixteenth of the range that holds the boundary.  Tiles whose largest logit lies below the
bounds are never read; the bounds begin at what the tile sums already tell.

No GPU has run this yet; see kernels/STATUS.md.
"""

from __future__ import annotations

import triton
import triton.language as tl

from dlm_kernels.common.float_order import kth_largest, ordered
from dlm_kernels.common.tiles import ALONE, FLOOR, TILE, gaps, largest, load, row_of

BINS = tl.constexpr(16)
MANY = tl.constexpr(1 << 30)  # more tokens than there are
_WORD = tl.constexpr(0xFFFFFFFF)
_SIGN = tl.constexpr(0x80000000)
_LEAST = tl.constexpr(1e-45)  # the smallest positive float32


@triton.jit
def key_of(x, SHIFT: tl.constexpr):
    """Return int64 in the order of logits, without the low bits that their dtype has not."""
    return (ordered(x, False) >> SHIFT).to(tl.int64)


@triton.jit
def _logit(key, SHIFT: tl.constexpr):
    """Return the float32 of a key; the bits that a shift drops are zeros of the float."""
    positive = (key << SHIFT) >= _SIGN
    whole = tl.where(positive, key << SHIFT, (key << SHIFT) | ((1 << SHIFT) - 1))
    bits = tl.where(positive, whole ^ _SIGN, whole ^ _WORD)
    return bits.to(tl.uint32).to(tl.float32, bitcast=True)


@triton.jit
def keeps(x, ids, peak, inverse, cut, last, least, SHIFT: tl.constexpr):
    """Return which of the logits `x` of the tokens `ids` pass; peak is the row's largest logit."""
    key = key_of(x, SHIFT)
    head = (key > cut) | ((key == cut) & (ids <= last))
    return head & (tl.exp2(gaps(x, peak) * inverse) >= tl.maximum(least, _LEAST))


@triton.jit
def count_kept(
    low, high, members, above, mass_above, limit, peak, inverse,
    MASS: tl.constexpr, INCLUDE: tl.constexpr, SHIFT: tl.constexpr,
):  # fmt: skip
    """Return how many of the `members` tokens with a key in [low, high) pass.

    It holds the boundary: one token, or several that are equal.
    """
    if MASS:
        weight = tl.exp2(gaps(_logit(low, SHIFT), peak) * inverse).to(tl.float64)
        turns = (limit - mass_above) / tl.where(weight > 0.0, weight, 1.0)
        turns = tl.minimum(tl.maximum(turns, 0.0), MANY * 1.0)
        whole = turns.to(tl.int64)
        if INCLUDE:
            kept = tl.maximum(whole + (turns > whole).to(tl.int64), 1)
        else:
            kept = tl.maximum(tl.where(members == 1, 0, whole), 1 - above)
    else:
        kept = limit.to(tl.int64) - above
    return tl.where(high > low, tl.minimum(kept, members), 0)


@triton.jit
def mass_floor(top_p, total, vocab, inverse, peak):
    """Return a logit below which all tokens together hold less than what may be left out."""
    gap = (tl.log2((1.0 - top_p) * total / vocab)).to(tl.float32) / inverse
    return peak + gap * 1.001 - tl.abs(peak) * 1e-6


@triton.jit
def _find(
    logits, other, maxima, starts, suppressed, vocab, tiles, stride_id, stride_other_id, mix0, mix1,
    inverse, peak, low, limit, MIX: tl.constexpr,
    MASS: tl.constexpr, INCLUDE: tl.constexpr, SHIFT: tl.constexpr,
):  # fmt: skip
    """Return the key of the last logit kept, and the last id kept of the ids that have it.

    The boundary is the first token, in order, at which the count or the mass reaches `limit`; it is
    kept.  With MASS and without INCLUDE it is the first at which the mass exceeds `limit`, and it
    is dropped.  low is a key that it is known to reach.
    """
    lane, column = tl.arange(0, TILE), tl.arange(0, BINS).to(tl.int64)
    high = key_of(peak, SHIFT) + 1
    members = low * 0 + MANY  # tokens with a key in [low, high)
    reach = members  # tokens with a key of at least low
    above = low * 0  # tokens with a key of at least high
    mass_above = above.to(tl.float64)
    while (high - low > 1) & (members > 1):
        edges = low + (high - low) * (column + 1) // BINS
        count, mass = column * 0, (column * 0).to(tl.float64)
        for tile in range(tiles):
            if key_of(tl.load(maxima + tile), SHIFT) >= low:
                ids = tile * TILE + lane
                x = load(logits, other, ids, tile, starts, suppressed, vocab, stride_id,
                         stride_other_id, mix0, mix1, MIX)  # fmt: skip
                reached = (ordered(x, False) >> SHIFT)[:, None] >= edges.to(tl.uint32)[None, :]
                count += tl.sum(reached.to(tl.int32), 0).to(tl.int64)
                if MASS:
                    weight = tl.exp2(gaps(x, peak) * inverse)[:, None]
                    mass += tl.sum(tl.where(reached, weight, 0.0), 0).to(tl.float64)
        if MASS:
            beyond = mass >= limit if INCLUDE else mass > limit
        else:
            beyond = count >= limit.to(tl.int64)
        reach = tl.min(tl.where(beyond, count, reach), 0)
        above = tl.max(tl.where(beyond, 0, count), 0)
        mass_above = tl.max(tl.where(beyond, 0.0, mass), 0)
        low, high = (
            tl.max(tl.where(beyond, edges, low), 0),
            tl.min(tl.where(beyond, high, edges), 0),
        )
        members = reach - above
    kept = count_kept(low, high, members, above, mass_above, limit, peak, inverse, MASS, INCLUDE,
                      SHIFT)  # fmt: skip
    last = low * 0 + MANY
    if (kept > 0) & (kept < members):
        seen = low * 0
        for tile in range(tiles):
            if key_of(tl.load(maxima + tile), SHIFT) >= low:
                ids = tile * TILE + lane
                x = load(logits, other, ids, tile, starts, suppressed, vocab, stride_id,
                         stride_other_id, mix0, mix1, MIX)  # fmt: skip
                equal = key_of(x, SHIFT) == low
                rank = seen + tl.cumsum(equal.to(tl.int32), 0)
                last = tl.min(tl.where(equal & (rank == kept), ids, last), 0)
                seen += tl.sum(equal.to(tl.int32), 0)
    return tl.where(kept > 0, low, high), last


@triton.jit
def _sum_kept(
    logits, other, maxima, kept, kept_entropy_sums, starts, suppressed, vocab, tiles, stride_id,
    stride_other_id, mix0, mix1, inverse, peak, cut, last, least,
    MIX: tl.constexpr, SHIFT: tl.constexpr,
):  # fmt: skip
    """Store the sums of the tokens kept, tile by tile; return their number and their mass."""
    lane = tl.arange(0, TILE)
    size = cut * 0
    mass = size.to(tl.float64)
    for tile in range(tiles):
        top = tl.load(maxima + tile)
        s, t = mass.to(tl.float32) * 0.0, mass.to(tl.float32) * 0.0
        if key_of(top, SHIFT) >= cut:
            ids = tile * TILE + lane
            x = load(logits, other, ids, tile, starts, suppressed, vocab, stride_id,
                         stride_other_id, mix0, mix1, MIX)  # fmt: skip
            keep = keeps(x, ids, peak, inverse, cut, last, least, SHIFT)
            d = tl.maximum(gaps(x, top) * inverse, FLOOR)
            weight = tl.where(keep, tl.exp2(d), 0.0)
            s, t = tl.sum(weight, 0), tl.sum(weight * d, 0)
            size += tl.sum(keep.to(tl.int32), 0)
            mass += tl.sum(tl.where(keep, tl.exp2(gaps(x, peak) * inverse), 0.0), 0).to(tl.float64)
        tl.store(kept + tile, s)
        tl.store(kept_entropy_sums + tile, t)
    return size, mass


@triton.jit
def filter_kernel(
    logits, other, rows, tile_max, draw_sums, kept, kept_entropy_sums, cuts, lasts, sizes, limits,
    starts, suppressed, inverses, mix,
    vocab, tiles, height, stride_row, stride_id, stride_other_row, stride_other_id,
    stride_inverse, stride_law, stride_mix, stride_mix_row,
    HAS_ROWS: tl.constexpr, MIX: tl.constexpr, TOP_K: tl.constexpr, TOP_P: tl.constexpr,
    INCLUDE: tl.constexpr, SHIFT: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """Find the last token of each row that passes the filters; grid (R,).

    kept, kept_entropy_sums float32 [R, tiles]; cuts, lasts, sizes int64 [R].
    limits: float64 [3]: top_k, top_p, min_p.  draw_sums: sums of the tiles, float32 [R, tiles].
    """
    row = tl.program_id(0).to(tl.int64)
    source = row_of(rows, row, height, HAS_ROWS)
    logits += source * stride_row
    inverse = tl.load(inverses + stride_law + row * stride_inverse)
    mix0, mix1 = inverse, inverse
    if MIX != ALONE:
        other += source * stride_other_row
        mix0 = tl.load(mix + source * stride_mix_row)
        mix1 = tl.load(mix + stride_mix + source * stride_mix_row)
    tile_max, draw_sums = tile_max + row * tiles, draw_sums + row * tiles
    kept, kept_entropy_sums = kept + row * tiles, kept_entropy_sums + row * tiles
    lane = tl.arange(0, TILES)
    inside = lane < tiles
    peaks = tl.load(tile_max + lane, mask=inside, other=float("-inf"))
    peak = tl.reduce(peaks, 0, largest)
    low = key_of(peak, SHIFT) * 0
    cut, last = low, low + MANY
    least = tl.load(limits + 2).to(tl.float32)
    s = tl.load(draw_sums + lane, mask=inside, other=0.0).to(tl.float64)
    total = tl.sum(s * tl.exp2(gaps(peaks, peak) * inverse).to(tl.float64), 0)
    if TOP_K:
        k = tl.load(limits)
        # As many tiles as that have a token at least as large as the k-th largest tile maximum.
        found = kth_largest(ordered(peaks, False), inside, k.to(tl.int32), False)
        low = (found >> SHIFT).to(tl.int64)
        cut, last = _find(
            logits, other, tile_max, starts, suppressed, vocab, tiles, stride_id, stride_other_id,
            mix0, mix1, inverse, peak, low, k, MIX, False, True, SHIFT,
        )  # fmt: skip
        low = cut
        if TOP_P:
            _, total = _sum_kept(
                logits, other, tile_max, kept, kept_entropy_sums, starts, suppressed, vocab, tiles,
                stride_id, stride_other_id, mix0, mix1, inverse, peak, cut, last, 0.0, MIX, SHIFT,
            )  # fmt: skip
    if TOP_P:
        top_p = tl.load(limits + 1)
        floor = mass_floor(top_p, total, vocab, inverse, peak)
        nucleus, end = _find(
            logits, other, tile_max, starts, suppressed, vocab, tiles, stride_id, stride_other_id,
            mix0, mix1, inverse, peak, tl.maximum(low, key_of(floor, SHIFT)), top_p * total,
            MIX, True, INCLUDE, SHIFT,
        )  # fmt: skip
        last = tl.where(nucleus > cut, end, tl.where(nucleus < cut, last, tl.minimum(last, end)))
        cut = tl.maximum(cut, nucleus)
    size, _ = _sum_kept(
        logits, other, tile_max, kept, kept_entropy_sums, starts, suppressed, vocab, tiles,
        stride_id, stride_other_id, mix0, mix1, inverse, peak, cut, last, least, MIX, SHIFT,
    )  # fmt: skip
    tl.store(cuts + row, cut)
    tl.store(lasts + row, last)
    tl.store(sizes + row, size)

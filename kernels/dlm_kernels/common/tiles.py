"""Read all logits once, and leave a few numbers per tile of 1024 vocabulary ids: K1.

The twin of dlm_sampling.ops.tiles.  With c = log2(e) / temperature and d = (x - m) c, a tile leaves
its largest logit m, s = sum 2^d and, for the entropy, sum d 2^d; nothing of the size of the
vocabulary is written.  One warp owns a tile, so its reductions need no barrier.

Two logits can be read as one (MIX): u + g (c - u), or ln [exp(c - a) - exp(u - b)]_+.

No GPU has run this yet; see kernels/STATUS.md.
"""

from __future__ import annotations

import os

import triton
import triton.language as tl

from dlm_kernels.common.aligned_reads import TILE, aligned_start, lane_ids, load_tile

# The interpreter has neither fused multiply-add nor inline assembly; what stands in is no worse.
NATIVE = tl.constexpr(os.environ.get("TRITON_INTERPRET") != "1")

FLOOR = tl.constexpr(-512.0)  # 2^-512 is 0 in float32, and 0 * -512 is not NaN as 0 * -inf is

ALONE = tl.constexpr(0)  # MIX: the logits as they are
GUIDED = tl.constexpr(1)  # u + mix0 (c - u), u the other logits
REMAINDER = tl.constexpr(2)  # ln [exp(c - mix0) - exp(u - mix1)]_+

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
_FAR = tl.constexpr(1048576.0)  # up to here a rounded product is off by 1/32 at most


@triton.jit
def largest(a, b):
    """Return the larger of two numbers; a NaN wins."""
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def row_of(rows, row, height, HAS_ROWS: tl.constexpr):
    """Return the row of the logits that is read, int64; an index outside takes the nearest row."""
    if HAS_ROWS:
        return tl.minimum(tl.maximum(tl.load(rows + row), 0), height - 1)
    else:
        return row


@triton.jit
def suppress(x, ids, tile, starts, suppressed):
    """Return the logits `x` of the tokens `ids`, with -inf at the suppressed ids of this tile."""
    return suppress_between(x, ids, tl.load(starts + tile), tl.load(starts + tile + 1), suppressed)


@triton.jit
def suppress_between(x, ids, at, end, suppressed):
    """Return the logits `x` of the tokens `ids`, with -inf at a stretch of the suppressed ids."""
    while at < end:
        x = tl.where(ids == tl.load(suppressed + at), float("-inf"), x)
        at += 1
    return x


@triton.jit
def log(x):
    """Return the natural logarithm of float32 >= 0 in two instructions; tl.log has 25."""
    if NATIVE:
        return LN2 * tl.inline_asm_elementwise(
            "lg2.approx.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        return tl.log(x)


@triton.jit
def fused(x, y, z):
    """Return x y + z in float32, rounded once."""
    if NATIVE:
        return tl.fma(x, y, z)
    else:
        return (x.to(tl.float64) * y.to(tl.float64) + z.to(tl.float64)).to(tl.float32)


@triton.jit
def combined(c, u, mix0, mix1, MIX: tl.constexpr):
    """Combine two logits into one."""
    if MIX == GUIDED:
        return u + mix0 * (c - u)
    else:
        first, second = tl.exp2((c - mix0) * LOG2E), tl.exp2((u - mix1) * LOG2E)
        return log(tl.maximum(first - second, 0.0, propagate_nan=tl.PropagateNan.ALL))


@triton.jit
def load(
    logits, other, ids, tile, starts, suppressed, vocab, stride_id, stride_other_id, mix0, mix1,
    MIX: tl.constexpr,
):  # fmt: skip
    """Load the logits of `ids`, all of one tile, as float32; -inf where an id may not be drawn."""
    x = read(logits, other, ids, vocab, stride_id, stride_other_id, mix0, mix1, MIX)
    return suppress(x, ids, tile, starts, suppressed)


@triton.jit
def read(
    logits, other, ids, vocab, stride_id, stride_other_id, mix0, mix1, MIX: tl.constexpr
):  # fmt: skip
    """Load the logits of `ids` as float32, suppressed or not; -inf outside of the vocabulary."""
    inside = ids < vocab
    place = ids.to(tl.int64)
    x = tl.load(logits + place * stride_id, mask=inside, other=float("-inf")).to(tl.float32)
    if MIX != ALONE:
        u = tl.load(other + place * stride_other_id, mask=inside, other=0.0).to(tl.float32)
        x = tl.where(inside, combined(x, u, mix0, mix1, MIX), float("-inf"))
    return x


@triton.jit
def gaps(x, peak):
    """Return x - peak, -inf where both are; taken before the product, for its digits."""
    return x - tl.where(peak == float("-inf"), 0.0, peak)


@triton.jit
def _store_tile(
    x, at, tile_max, sums, entropy_sums, draw_sums, inverse, draw_inverse, TWO: tl.constexpr
):
    """Store the largest logit and the sums of a tile with the logits `x`."""
    peak = tl.reduce(x, 0, largest)
    gap = gaps(x, peak)
    d = tl.maximum(gap * inverse, FLOOR)
    weight = tl.exp2(d)
    tl.store(tile_max + at, peak)
    tl.store(sums + at, tl.sum(weight, 0))
    tl.store(entropy_sums + at, tl.sum(weight * d, 0))
    if TWO:
        tl.store(draw_sums + at, tl.sum(tl.exp2(gap * draw_inverse), 0))


@triton.jit
def _store_tile_fast(
    x, at, tile_max, sums, entropy_sums, draw_sums, inverse, draw_inverse, TWO: tl.constexpr
):
    """Do `_store_tile` in fewer instructions; return 1 if it must be redone, as for -inf and NaN.

    x c - fl(m c) in one instruction is off by the same m c - fl(m c) for the whole tile, so that is
    taken off the sums instead of subtracting before scaling.
    """
    peak = tl.reduce(x, 0, largest)
    offset = peak * inverse
    d = fused(x, inverse, -offset)
    weight = tl.exp2(d)
    s, t = tl.sum(weight, 0), tl.sum(weight * d, 0)
    rest = fused(peak, inverse, -offset)
    mend = tl.exp2(-rest)
    tl.store(tile_max + at, peak)
    tl.store(sums + at, s * mend)
    tl.store(entropy_sums + at, (t - rest * s) * mend)
    far = tl.abs(offset)
    if TWO:
        offset = peak * draw_inverse
        mend = tl.exp2(-fused(peak, draw_inverse, -offset))
        s = tl.sum(tl.exp2(fused(x, draw_inverse, -offset)), 0)
        tl.store(draw_sums + at, s * mend)
        far = tl.maximum(far, tl.abs(offset))
    return ((t != t) | (far >= _FAR)).to(tl.int32)


@triton.jit
def _read_tile(
    logits, other, tile, start, start_other, shift, stride_id, stride_other_id,
    MIX: tl.constexpr, READ: tl.constexpr,
):  # fmt: skip
    """Load a whole tile of both logits; of one alone, twice the same."""
    x = load_tile(logits, stride_id, start, shift, tile, READ)
    u = x
    if MIX != ALONE:
        u = load_tile(other, stride_other_id, start_other, shift, tile, READ)
    return x, u


@triton.jit
def tile_kernel(
    logits, other, rows, tile_max, sums, entropy_sums, draw_sums, starts, suppressed, inverses, mix,
    vocab, tiles, height, stride_row, stride_id, stride_other_row, stride_other_id,
    stride_inverse, stride_law, stride_mix, stride_mix_row,
    HAS_ROWS: tl.constexpr, TWO: tl.constexpr, MIX: tl.constexpr, READ: tl.constexpr,
    GROUP: tl.constexpr, AHEAD: tl.constexpr,
):  # fmt: skip
    """Read the tiles of each row once; grid (R, ceil(tiles / GROUP)), one warp.

    With AHEAD a program loads a tile before it is done with the one in front: two are in flight.

    Outputs are float32 [R, tiles].
    inverses float32 [3, R]: log2(e) / temperature of the statistics and of the draw, and whether
    the draw is the argmax.  mix float32 [2, N].  READ: how whole tiles are read, see `windows`.
    An index of -1 is no row: nothing is read, and it leaves the numbers of a row of -inf.
    """
    row = tl.program_id(0).to(tl.int64)
    source = row_of(rows, row, height, HAS_ROWS)
    logits += source * stride_row
    inverse = tl.load(inverses + row * stride_inverse)
    draw_inverse = tl.load(inverses + stride_law + row * stride_inverse)
    mix0, mix1 = inverse, inverse
    if MIX != ALONE:
        other += source * stride_other_row
        mix0 = tl.load(mix + source * stride_mix_row)
        mix1 = tl.load(mix + stride_mix + source * stride_mix_row)
    first = tl.program_id(1) * GROUP
    lane = tl.arange(0, TILE)
    stop = tl.maximum(tl.minimum(first + GROUP, vocab // TILE), first)
    end = tl.minimum(first + GROUP, tiles)
    if HAS_ROWS:
        there = tl.load(rows + row) >= 0
        mine = first + tl.arange(0, GROUP)
        absent = mine < tl.where(there, first, end)
        at = row * tiles + mine
        zero = tl.zeros((GROUP,), dtype=tl.float32)
        tl.store(tile_max + at, zero - float("inf"), mask=absent)
        tl.store(sums + at, zero, mask=absent)
        tl.store(entropy_sums + at, zero, mask=absent)
        if TWO:
            tl.store(draw_sums + at, zero, mask=absent)
        stop, end = tl.where(there, stop, first), tl.where(there, end, first)
    start, shift = aligned_start(logits, READ)
    start_other = start
    if MIX != ALONE:
        start_other, _ = aligned_start(other, READ)
    again, tile = first * 0, first
    if AHEAD:
        if tile < stop:
            x, u = _read_tile(logits, other, tile, start, start_other, shift, stride_id,
                              stride_other_id, MIX, READ)  # fmt: skip
            while tile < stop:
                after = tl.minimum(tile + 1, stop - 1)
                y, v = _read_tile(logits, other, after, start, start_other, shift, stride_id,
                                  stride_other_id, MIX, READ)  # fmt: skip
                if MIX != ALONE:
                    x = combined(x, u, mix0, mix1, MIX)
                x = suppress(x, lane_ids(tile, shift, READ), tile, starts, suppressed)
                again |= _store_tile_fast(x, row * tiles + tile, tile_max, sums, entropy_sums,
                                          draw_sums, inverse, draw_inverse, TWO)  # fmt: skip
                x, u = y, v
                tile += 1
    else:
        while tile < stop:
            ids = lane_ids(tile, shift, READ)
            x, u = _read_tile(logits, other, tile, start, start_other, shift, stride_id,
                              stride_other_id, MIX, READ)  # fmt: skip
            if MIX != ALONE:
                x = combined(x, u, mix0, mix1, MIX)
            x = suppress(x, ids, tile, starts, suppressed)
            again |= _store_tile_fast(x, row * tiles + tile, tile_max, sums, entropy_sums,
                                      draw_sums, inverse, draw_inverse, TWO)  # fmt: skip
            tile += 1
    # The ragged tile needs a mask; and where a tile was odd, its group is done again.
    tile = tl.where(again != 0, first, stop)
    while tile < end:
        x = load(logits, other, tile * TILE + lane, tile, starts, suppressed, vocab, stride_id,
                 stride_other_id, mix0, mix1, MIX)  # fmt: skip
        _store_tile(x, row * tiles + tile, tile_max, sums, entropy_sums, draw_sums,
                    inverse, draw_inverse, TWO)  # fmt: skip
        tile += 1

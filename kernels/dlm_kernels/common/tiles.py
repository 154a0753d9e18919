"""K1: one pass over the logits, which leaves a few numbers per tile of 1024 vocabulary ids.

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

from dlm_kernels.common.aligned_reads import TILE, lane_ids, whole, window

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
    """The larger of two numbers; a NaN wins."""
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def row_of(rows, row, height, HAS_ROWS: tl.constexpr):
    """Which row of the logits is read, int64; the nearest one for an index that is none of them."""
    if HAS_ROWS:
        return tl.minimum(tl.maximum(tl.load(rows + row), 0), height - 1)
    else:
        return row


@triton.jit
def suppress(x, ids, tile, starts, suppressed):
    """The logits `x` of the tokens `ids`, with -inf at the suppressed ones of this tile."""
    at = tl.load(starts + tile)
    end = tl.load(starts + tile + 1)
    while at < end:
        x = tl.where(ids == tl.load(suppressed + at), float("-inf"), x)
        at += 1
    return x


@triton.jit
def log(x):
    """Natural logarithm of float32 >= 0; one instruction and a product, as tl.log is 25."""
    if NATIVE:
        return LN2 * tl.inline_asm_elementwise(
            "lg2.approx.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        return tl.log(x)


@triton.jit
def fused(x, y, z):
    """The float32 x y + z, rounded once."""
    if NATIVE:
        return tl.fma(x, y, z)
    else:
        return (x.to(tl.float64) * y.to(tl.float64) + z.to(tl.float64)).to(tl.float32)


@triton.jit
def mixed(c, u, mix0, mix1, MIX: tl.constexpr):
    """One logit of two."""
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
    """The logits of `ids`, all of one tile, as float32; -inf where an id may not be drawn."""
    inside = ids < vocab
    place = ids.to(tl.int64)
    x = tl.load(logits + place * stride_id, mask=inside, other=float("-inf")).to(tl.float32)
    if MIX != ALONE:
        u = tl.load(other + place * stride_other_id, mask=inside, other=0.0).to(tl.float32)
        x = tl.where(inside, mixed(x, u, mix0, mix1, MIX), float("-inf"))
    return suppress(x, ids, tile, starts, suppressed)


@triton.jit
def gaps(x, peak):
    """The difference x - peak, -inf where both are; taken before scaling, for its digits."""
    return x - tl.where(peak == float("-inf"), 0.0, peak)


@triton.jit
def _leave(x, at, tile_max, sums, cross, sampled, scale, scale_sampled, TWO: tl.constexpr):
    """Write what a tile with the logits `x` leaves."""
    peak = tl.reduce(x, 0, largest)
    gap = gaps(x, peak)
    d = tl.maximum(gap * scale, FLOOR)
    weight = tl.exp2(d)
    tl.store(tile_max + at, peak)
    tl.store(sums + at, tl.sum(weight, 0))
    tl.store(cross + at, tl.sum(weight * d, 0))
    if TWO:
        tl.store(sampled + at, tl.sum(tl.exp2(gap * scale_sampled), 0))


@triton.jit
def _hurry(x, at, tile_max, sums, cross, sampled, scale, scale_sampled, TWO: tl.constexpr):
    """As `_leave` in fewer instructions; 1 if it must be done again: -inf, NaN, large products.

    x c - fl(m c) in one instruction is off by the same m c - fl(m c) for the whole tile, so that is
    taken off the sums instead of subtracting before scaling.
    """
    peak = tl.reduce(x, 0, largest)
    offset = peak * scale
    d = fused(x, scale, -offset)
    weight = tl.exp2(d)
    s, t = tl.sum(weight, 0), tl.sum(weight * d, 0)
    rest = fused(peak, scale, -offset)
    mend = tl.exp2(-rest)
    tl.store(tile_max + at, peak)
    tl.store(sums + at, s * mend)
    tl.store(cross + at, (t - rest * s) * mend)
    far = tl.abs(offset)
    if TWO:
        offset = peak * scale_sampled
        mend = tl.exp2(-fused(peak, scale_sampled, -offset))
        s = tl.sum(tl.exp2(fused(x, scale_sampled, -offset)), 0)
        tl.store(sampled + at, s * mend)
        far = tl.maximum(far, tl.abs(offset))
    return ((t != t) | (far >= _FAR)).to(tl.int32)


@triton.jit
def tile_kernel(
    logits, other, rows, tile_max, sums, cross, sampled, starts, suppressed, scales, mix,
    vocab, tiles, height, stride_row, stride_id, stride_other_row, stride_other_id,
    stride_scale, stride_law, stride_mix, stride_mix_row,
    HAS_ROWS: tl.constexpr, TWO: tl.constexpr, MIX: tl.constexpr, READ: tl.constexpr,
    GROUP: tl.constexpr,
):  # fmt: skip
    """Grid (R, ceil(tiles / GROUP)), one warp.  Outputs are float32 [R, tiles].

    scales float32 [3, R]: log2(e) / temperature of the statistics and of the draw, and whether the
    draw is the argmax.  mix float32 [2, N].  READ: how whole tiles are read, see `windows`.
    An index of -1 is no row: nothing is read, and it leaves what a row of -inf leaves.
    """
    row = tl.program_id(0).to(tl.int64)
    source = row_of(rows, row, height, HAS_ROWS)
    logits += source * stride_row
    scale = tl.load(scales + row * stride_scale)
    scale_sampled = tl.load(scales + stride_law + row * stride_scale)
    mix0, mix1 = scale, scale
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
        tl.store(cross + at, zero, mask=absent)
        if TWO:
            tl.store(sampled + at, zero, mask=absent)
        stop, end = tl.where(there, stop, first), tl.where(there, end, first)
    start, shift = window(logits, READ)
    start_other = start
    if MIX != ALONE:
        start_other, _ = window(other, READ)
    again, tile = first * 0, first
    while tile < stop:
        ids = lane_ids(tile, shift, READ)
        x = whole(logits, stride_id, start, shift, tile, READ)
        if MIX != ALONE:
            u = whole(other, stride_other_id, start_other, shift, tile, READ)
            x = mixed(x, u, mix0, mix1, MIX)
        x = suppress(x, ids, tile, starts, suppressed)
        again |= _hurry(x, row * tiles + tile, tile_max, sums, cross, sampled,
                        scale, scale_sampled, TWO)  # fmt: skip
        tile += 1
    # The ragged tile needs a mask; and where a tile was odd, its group is done again.
    tile = tl.where(again != 0, first, stop)
    while tile < end:
        x = load(logits, other, tile * TILE + lane, tile, starts, suppressed, vocab, stride_id,
                 stride_other_id, mix0, mix1, MIX)  # fmt: skip
        _leave(x, row * tiles + tile, tile_max, sums, cross, sampled, scale, scale_sampled, TWO)
        tile += 1

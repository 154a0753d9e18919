"""Read whole tiles of dense logits 16 bytes at a time, wherever their rows begin.

Let a row begin r logits after a multiple of 16 bytes; r is the same for all of its tiles, as a tile
is a multiple of 16 bytes.  Lane j of tile t is read at t TILE + j - r, which is aligned.  The first
r lanes would belong to the tile before; they take the last r logits of this tile instead, with
which the next 16 bytes begin:

    id of lane j = t TILE + j - r, + TILE where j < r.

What is read without being used shares its aligned 16 bytes with a logit of the row, so it lies in
the same allocation: memory is given out in multiples of more than that.

No GPU has run this yet; see kernels/STATUS.md.
"""

from __future__ import annotations

import triton
import triton.language as tl

TILE = tl.constexpr(1024)

ANY = tl.constexpr(0)  # READ: any strides, one load per logit
ALIGNED = tl.constexpr(1)  # dense, and every row begins at a multiple of 16 bytes
WINDOWS = tl.constexpr(2)  # dense


@triton.jit
def aligned_start(row, READ: tl.constexpr):
    """Return a pointer to the aligned 16 bytes where a row begins, and r."""
    if READ == ANY:
        return row, 0
    elif READ == ALIGNED:
        return tl.multiple_of(row.to(tl.pointer_type(tl.int32)), 16), 0
    else:
        address = row.to(tl.int64)
        start = (address & -16).to(tl.pointer_type(tl.int32))
        shift = (address & 15) * 8 // row.dtype.element_ty.primitive_bitwidth
        return tl.multiple_of(start, 16), shift.to(tl.int32)


@triton.jit
def _words(start, shift, tile, BITS: tl.constexpr, READ: tl.constexpr):
    """Return the bits of all logits of a tile, int32."""
    WORDS: tl.constexpr = TILE * BITS // 32
    lane = tl.arange(0, WORDS)
    at = start + tile.to(tl.int64) * WORDS
    words = tl.load(at + lane)
    if READ == WINDOWS:
        # With r = 0 nothing is taken from the next 16 bytes, which need not be there.
        at += tl.where(shift > 0, WORDS, 0)
        last = tl.load(at + lane, mask=lane < 4, other=0)
        if BITS == 32:
            taken = tl.where(lane < shift, -1, 0)
        else:
            taken = tl.where(2 * lane + 1 < shift, -1, tl.where(2 * lane < shift, 0xFFFF, 0))
        words = (words & ~taken) | (last & taken)
    return words


@triton.jit
def load_tile(row, stride, start, shift, tile, READ: tl.constexpr):
    """Return all logits of a tile by lane, float32; `stride` between logits is read for ANY."""
    kind: tl.constexpr = row.dtype.element_ty
    if READ == ANY:
        place = (tile * TILE + tl.arange(0, TILE)).to(tl.int64)
        x = tl.load(row + place * stride).to(tl.float32)
    elif kind == tl.float32:
        x = _words(start, shift, tile, 32, READ).to(tl.float32, bitcast=True)
    else:
        words = _words(start, shift, tile, 16, READ)
        if kind == tl.bfloat16:
            both = tl.join(words << 16, words & -65536).to(tl.float32, bitcast=True)
        else:
            both = tl.join(words.to(tl.int16), (words >> 16).to(tl.int16)).to(kind, bitcast=True)
        x = tl.reshape(both, (TILE,)).to(tl.float32)
    return x


@triton.jit
def lane_ids(tile, shift, READ: tl.constexpr):
    """Return the vocabulary ids of the lanes of a tile."""
    lane = tl.arange(0, TILE)
    if READ == WINDOWS:
        lane = tl.where(lane < shift, lane + TILE, lane) - shift
    return tile * TILE + lane

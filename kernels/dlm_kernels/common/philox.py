"""Compute Philox-4x32-10 and unit exponentials with the bits of dlm_sampling.ops.philox.

Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).  The layout
of counters and keys is stated in dlm_sampling.ops.philox; this file only repeats its arithmetic.

No GPU has run this yet; see kernels/STATUS.md.
"""

from __future__ import annotations

import triton
import triton.language as tl

_LEFT = tl.constexpr(0xD2511F53)
_RIGHT = tl.constexpr(0xCD9E8D57)
_WEYL0 = tl.constexpr(0x9E3779B9)
_WEYL1 = tl.constexpr(0xBB67AE85)
_WORD = tl.constexpr(0xFFFFFFFF)
_MAX_STEP = tl.constexpr((1 << 28) - 1)


@triton.jit
def philox4x32(c0, c1, c2, c3, k0, k1):
    """Run ten rounds; all six are uint32 blocks of one shape, and so are the words returned."""
    left = tl.full(c0.shape, _LEFT, tl.uint32)
    right = tl.full(c0.shape, _RIGHT, tl.uint32)
    weyl0 = tl.full(c0.shape, _WEYL0, tl.uint32)
    weyl1 = tl.full(c0.shape, _WEYL1, tl.uint32)
    for _ in tl.static_range(10):
        high0, high2 = tl.umulhi(right, c2), tl.umulhi(left, c0)
        low1, low3 = right * c2, left * c0
        c0, c2 = high0 ^ c1 ^ k0, high2 ^ c3 ^ k1
        c1, c3 = low1, low3
        k0, k1 = k0 + weyl0, k1 + weyl1
    return c0, c1, c2, c3


@triton.jit
def random_words(key, position, step, sub, lane, STREAM: tl.constexpr):
    """Return 64 random bits per lane, as (high, low) uint32 blocks.

    key, position and step are int64 scalars, sub is an integer scalar, lane an int32 block.
    """
    zero = (lane * 0).to(tl.uint32)
    turn = (step & _MAX_STEP).to(tl.uint32) | (STREAM * (_MAX_STEP + 1))
    w0, w1, w2, w3 = philox4x32(
        (lane >> 1).to(tl.uint32),
        zero + position.to(tl.uint32),
        (zero + sub).to(tl.uint32),
        zero + turn.to(tl.uint32),
        zero + key.to(tl.uint32),
        zero + (key >> 32).to(tl.uint32),
    )
    odd = (lane & 1) == 1
    return tl.where(odd, w2, w0), tl.where(odd, w3, w1)


@triton.jit
def exponential_from_words(high, low):
    """Return unit exponentials, float64, within 4 units in the last place of torch's.

    -log1p(-v) is -log(w) v / (1 - w) with w = 1 - v, whose rounding error cancels (Kahan): the
    interpreter has no log1p.
    """
    upper, v, w = _parts(high, low, tl.float64)
    exact = w == 1.0
    fall = -tl.log(tl.where(upper, v, w))  # one logarithm: a lane needs only one of the two
    near = fall * v / tl.where(exact, 1.0, 1.0 - w)
    return tl.where(upper, fall, tl.where(exact, v, near))


@triton.jit
def rough_rates(high, low):
    """Return 1 / E of `exponential_from_words` in float32, within 2^-19 of it relatively.

    v, w and the logarithm are within 2 units in the last place (2^-23), and so is every product.
    """
    upper, v, w = _parts(high, low, tl.float32)
    exact = w == 1.0
    fall = -tl.log(tl.where(upper, v, w))
    apart = tl.where(upper | exact, 1.0, 1.0 - w)
    return apart / tl.where(upper, fall, tl.where(exact, v, fall * v))


@triton.jit
def _parts(high, low, FLOAT: tl.constexpr):
    """Return whether u >= 1/2, then v = min(u, 1 - u), and 1 - v."""
    upper = high >= 0x80000000
    high = tl.where(upper, high ^ _WORD, high)
    low = tl.where(upper, low ^ _WORD, low)
    v = (low.to(FLOAT) + 0.5) * 2.0**-64 + high.to(FLOAT) * 2.0**-32
    return upper, v, 1.0 - v


@triton.jit
def arrivals(key, position, step, sub, lane, STREAM: tl.constexpr):
    """Return the unit exponential of every lane, float64."""
    high, low = random_words(key, position, step, sub, lane, STREAM)
    return exponential_from_words(high, low)

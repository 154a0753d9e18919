"""Find the first clock of a race to ring in float32, and in float64 only where two are close.

The specification divides float64 rates by float64 exponentials, and takes the largest.  Here a
float32 quotient names all who can have won: it is within 2^-17 of the float64 one, so who is more
than 2^-15 below the best float32 quotient has lost.  Mostly one is left.  Otherwise, and where the
best is so small that float32 loses digits, or a NaN, the race is run as specified.

No GPU has run this yet; see kernels/STATUS.md.
"""

from __future__ import annotations

import triton
import triton.language as tl

from dlm_kernels.common.philox import arrivals, random_words, rough_rates

_CLOSE = tl.constexpr(1.0 - 2.0**-15)
_SMALLEST = tl.constexpr(2.0**-60)
_ONE = tl.constexpr(1 << 16)  # above any lane


@triton.jit
def rough_clocks(key, position, step, sub, lane, STREAM: tl.constexpr):
    """Return the float32 rates 1 / E of the lanes, which `winner` takes."""
    high, low = random_words(key, position, step, sub, lane, STREAM)
    return rough_rates(high, low)


@triton.jit
def winner(rates, rough, key, position, step, sub, lane, STREAM: tl.constexpr):
    """Return the index of the largest rates / arrivals(lane), the lowest of equals; int32.

    rates are float32 or float64, at least 0 and at most 2^40; rough comes from `rough_clocks` with
    the same key, position, step, sub and lane.
    """
    score = rates.to(tl.float32) * rough
    # Floats from 0 on are in the order of their bits, and integers take one instruction.
    best = tl.max(score.to(tl.int32, bitcast=True), 0).to(tl.float32, bitcast=True)
    index = tl.arange(0, lane.shape[0])
    floor = tl.where(best > _SMALLEST, best * _CLOSE, 0.0)
    found = tl.sum(tl.where(score < floor, 0, index + _ONE), 0)
    place = found - _ONE
    if found >= 2 * _ONE:
        clock = arrivals(key, position, step, sub, lane, STREAM)
        place = tl.argmax(rates.to(tl.float64) / clock, 0)
    return place

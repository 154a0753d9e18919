"""Map floats to unsigned integers of the same order, and find the k-th largest without a sort.

No GPU has run this yet; see kernels/STATUS.md.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def ordered(score, WIDE: tl.constexpr):
    """Return unsigned keys in the order of floats; -0.0 equals 0.0, and a NaN goes below -inf."""
    score = tl.where(score == 0.0, 0.0, score)
    if WIDE:
        bits = score.to(tl.int64, bitcast=True)
        key = (bits ^ ((bits >> 63) | -0x8000000000000000)).to(tl.uint64, bitcast=True)
    else:
        bits = score.to(tl.int32, bitcast=True)
        key = (bits ^ ((bits >> 31) | -0x80000000)).to(tl.uint32, bitcast=True)
    return tl.where(score == score, key, 0)


@triton.jit
def kth_largest(key, eligible, k, WIDE: tl.constexpr):
    """Return the k-th largest eligible key, found bit by bit; 0 if there are fewer than k."""
    found = tl.max(key, 0) * 0
    bit = (found + 1) << (63 if WIDE else 31)
    for _ in range(64 if WIDE else 32):
        candidate = found | bit
        enough = tl.sum((eligible & (key >= candidate)).to(tl.int32), 0) >= k
        found = tl.where(enough, candidate, found)
        bit = bit >> 1
    return found

"""Tell whether a row of logits defines a law, as a number that a kernel leaves for the host.

No GPU has run this yet; see kernels/STATUS.md.
"""

from __future__ import annotations

import triton
import triton.language as tl

FINE = tl.constexpr(0)
NO_TOKEN = tl.constexpr(1)  # every logit of the row is -inf
NOT_A_NUMBER = tl.constexpr(2)
INFINITE = tl.constexpr(3)
NO_ROW = tl.constexpr(4)  # the logits have no such row


@triton.jit
def status_of(peak, rows, row, height, HAS_ROWS: tl.constexpr):
    """Return whether a row with this largest logit defines a law, and exists at all."""
    found = tl.where(peak == float("-inf"), NO_TOKEN, FINE)
    found = tl.where(peak == float("inf"), INFINITE, found)
    found = tl.where(peak != peak, NOT_A_NUMBER, found)
    if HAS_ROWS:
        asked = tl.load(rows + row)
        found = tl.where((asked < 0) | (asked >= height), NO_ROW, found)
    return found

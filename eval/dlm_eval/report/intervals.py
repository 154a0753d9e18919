"""Compute the interval of a fraction of right answers, which an error of 0 at 0 % cannot give."""

from __future__ import annotations

import math

NORMAL = 1.959963984540054
"""97.5 % quantile of the standard normal law."""


def wilson(right: float, n: int) -> tuple[float, float]:
    """Return the 95 % interval of a chance, from `right` successes of n trials.

        (p + z^2 / 2n ± z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n),   p = right / n

    Wilson 1927, "Probable inference, the law of succession, and statistical inference".

    Raises:
        ValueError: n < 1, or `right` outside 0..n.
    """
    if n < 1 or not 0 <= right <= n:
        raise ValueError(f"right={right}, n={n}: must be n >= 1 and 0 <= right <= n.")
    p, z = right / n, NORMAL
    middle = p + z**2 / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    scale = 1 + z**2 / n
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


def wilson_note(right: float, n: int) -> str:
    """Return the interval as words, in %."""
    low, high = wilson(right, n)
    return f"95 % interval {100 * low:.1f} to {100 * high:.1f} %"

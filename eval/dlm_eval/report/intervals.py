"""Compute standard errors of means and of fractions, and the interval of a fraction.

An interval says what an error of 0 at 0 % cannot.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

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


def variance(successes: int, samples: int) -> float:
    """Return the variance of a fraction, from one success and one failure more: it is never 0."""
    p = (successes + 1) / (samples + 2)
    return p * (1 - p) / samples


def mean_and_error(values: Sequence[float] | npt.NDArray[np.float64]) -> tuple[float, float]:
    """Return the mean over rows and its standard error."""
    array = np.asarray(values, dtype=np.float64)
    return float(array.mean()), float(array.std(ddof=1) / math.sqrt(len(array)))

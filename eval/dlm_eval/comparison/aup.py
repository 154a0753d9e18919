"""Compute AUP, accuracy under parallelism: one figure for accuracy over tokens per forward.

Points (rho_i, y_i), rho the tokens per forward (TPF) and y the accuracy in %, in order of rho:

    AUP = rho_1 y_1 + sum over i > 1 of (rho_i - rho_{i-1}) (y_i W_i + y_{i-1} W_{i-1}) / 2
    W_i = min(exp(-3 (1 - y_i / y_max)), 1)

over the points with y_i >= y_1 - 5.  Qian et al. 2026, arXiv:2601.07568.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise

STEEPNESS = 3.0
LOSS = 5.0
"""Accuracy in % that a point may lose against the slowest one before it is left out."""


def aup(points: Iterable[tuple[float, float]], best: float | None = None) -> float:
    """Return the AUP of one method.

    Args:
        points: tokens per forward and accuracy in %, in any order.
        best: y_max, the best accuracy in % of all methods; default the best of these points.

    Raises:
        ValueError: no point, a value out of its range, or `best` below the slowest point.
    """
    ordered = sorted(points)
    if not ordered:
        raise ValueError("points: must hold at least one pair (tokens per forward, accuracy in %).")
    for rho, y in ordered:
        if not (math.isfinite(rho) and rho > 0 and 0 <= y <= 100):
            raise ValueError(f"points: ({rho}, {y}) must have rho > 0 and an accuracy in 0..100.")
    slowest = ordered[0][1]
    counted = kept(ordered)
    most = max(y for _, y in counted) if best is None else best
    if most < slowest:
        raise ValueError(f"best={best}: is less than the accuracy {slowest} of the slowest point.")

    def weighted(y: float) -> float:
        return y * min(math.exp(-STEEPNESS * (1 - y / most)), 1.0) if most else 0.0

    area = counted[0][0] * slowest
    for (before, low), (rho, y) in pairwise(counted):
        area += (rho - before) * (weighted(y) + weighted(low)) / 2
    return area


def kept(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points that count, in order: the others lose too much against the slowest."""
    ordered = sorted(points)
    return [(rho, y) for rho, y in ordered if y >= ordered[0][1] - LOSS]

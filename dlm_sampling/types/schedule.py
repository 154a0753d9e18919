"""Define the contract of a noise schedule."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Schedule(Protocol):
    """Compute a survival probability alpha(t) and its inverse, elementwise on float64 tensors."""

    def alpha(self, t: Tensor) -> Tensor:
        """Return the probability that a position is clean at time t."""
        ...

    def rate(self, t: Tensor) -> Tensor:
        """Return -alpha'(t) >= 0, the loss per unit of time; see `masking_rate`, `reverse_rate`."""
        ...

    def time_of(self, alpha: Tensor) -> Tensor:
        """Return the time t at which `alpha(t)` has the given value; clamped to [0, 1]."""
        ...

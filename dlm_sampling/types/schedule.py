"""The contract of a noise schedule."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Schedule(Protocol):
    """A survival probability alpha(t) and its inverse, elementwise on float64 tensors."""

    def alpha(self, t: Tensor) -> Tensor:
        """Probability that a position is clean at time t."""
        ...

    def rate(self, t: Tensor) -> Tensor:
        """-alpha'(t), >= 0: what is lost per unit of time; see `masking_rate`, `reverse_rate`."""
        ...

    def time_of(self, alpha: Tensor) -> Tensor:
        """The time t at which `alpha(t)` has the given value; clamped to [0, 1]."""
        ...

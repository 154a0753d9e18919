"""Define noise schedules: alpha(t), the probability that a position is still clean at time t.

Time runs from 1 (noise) to 0 (data), so alpha falls from 1 at t = 0 to about 0 at t = 1.  A
schedule also gives the inverse, `time_of(alpha)`, which event-driven samplers need.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dlm_sampling.errors import check_fields
from dlm_sampling.types import Schedule as Schedule


def _check_eps(name: str, eps: float) -> None:
    if not 0.0 <= eps < 1.0:
        raise ValueError(
            f"{name}: eps={eps}: must be in [0, 1); 1e-3 is the value of the MDLM paper."
        )


@dataclass(frozen=True)
class LogLinear:
    """Define alpha(t) = 1 - (1 - eps) t, the log-linear schedule; eps = 0 ends at 0.

    Sahoo et al. 2024, arXiv:2406.07524.
    """

    eps: float = 1e-3

    def __post_init__(self) -> None:
        check_fields(self)
        _check_eps("LogLinear", self.eps)

    def alpha(self, t: Tensor) -> Tensor:
        """Return 1 - (1 - eps) t."""
        return 1.0 - (1.0 - self.eps) * t

    def rate(self, t: Tensor) -> Tensor:
        """Return 1 - eps."""
        return torch.full_like(t, 1.0 - self.eps)

    def time_of(self, alpha: Tensor) -> Tensor:
        """Return (1 - alpha) / (1 - eps)."""
        return ((1.0 - alpha) / (1.0 - self.eps)).clamp(0.0, 1.0)


LINEAR = LogLinear(0.0)
LOG_LINEAR = LogLinear()


@dataclass(frozen=True)
class Cosine:
    """Define alpha(t) = eps + (1 - eps) cos(pi t / 2) ** power, a cosine; power 2 is MDLM's.

    Sahoo et al. 2024, arXiv:2406.07524, appendix on noise schedules.
    """

    eps: float = 1e-3
    power: int = 1

    def __post_init__(self) -> None:
        check_fields(self)
        _check_eps("Cosine", self.eps)
        if self.power < 1:
            raise ValueError(
                f"Cosine: power={self.power}: must be at least 1; 1 is cosine, 2 cosine squared."
            )

    def alpha(self, t: Tensor) -> Tensor:
        """Return eps + (1 - eps) cos(pi t / 2) ** power."""
        return self.eps + (1.0 - self.eps) * torch.cos(t * (math.pi / 2)) ** self.power

    def rate(self, t: Tensor) -> Tensor:
        """Return (1 - eps) (pi / 2) power cos(pi t / 2) ** (power - 1) sin(pi t / 2)."""
        x = t * (math.pi / 2)
        return (
            (1.0 - self.eps)
            * (math.pi / 2)
            * self.power
            * torch.cos(x) ** (self.power - 1)
            * torch.sin(x)
        )

    def time_of(self, alpha: Tensor) -> Tensor:
        """Return (2 / pi) arccos(((alpha - eps) / (1 - eps)) ** (1 / power))."""
        base = ((alpha - self.eps) / (1.0 - self.eps)).clamp(0.0, 1.0)
        return torch.acos(base ** (1.0 / self.power)) * (2 / math.pi)


@dataclass(frozen=True)
class HalfCosine:
    """Define alpha(t) = 1 - cos(pi/2 (1 - (1 - eps) t)), a quarter of a cosine.

    The cosine schedule of Duo (eps > 0) and of MaskGIT-style masking (eps = 0).
    """

    eps: float = 0.0

    def __post_init__(self) -> None:
        check_fields(self)
        _check_eps("HalfCosine", self.eps)

    def alpha(self, t: Tensor) -> Tensor:
        """Return 1 - cos(pi/2 (1 - (1 - eps) t))."""
        return 1.0 - torch.cos((1.0 - (1.0 - self.eps) * t) * (math.pi / 2))

    def rate(self, t: Tensor) -> Tensor:
        """Return (1 - eps) (pi / 2) sin(pi/2 (1 - (1 - eps) t))."""
        speed = (1.0 - self.eps) * (math.pi / 2)
        return speed * torch.sin((1.0 - (1.0 - self.eps) * t) * (math.pi / 2))

    def time_of(self, alpha: Tensor) -> Tensor:
        """Return (1 - (2 / pi) arccos(1 - alpha)) / (1 - eps)."""
        return (
            (1.0 - torch.acos((1.0 - alpha).clamp(-1.0, 1.0)) * (2 / math.pi)) / (1.0 - self.eps)
        ).clamp(0, 1)


@dataclass(frozen=True)
class Geometric:
    """Define alpha(t) = exp(-sigma_min ** (1 - t) * sigma_max ** t), geometric total noise.

    Lou et al. 2024, arXiv:2310.16834.
    """

    sigma_min: float = 1e-3
    sigma_max: float = 20.0

    def __post_init__(self) -> None:
        check_fields(self)
        if not 0.0 < self.sigma_min < self.sigma_max < math.inf:
            raise ValueError(
                f"Geometric: sigma_min={self.sigma_min}, sigma_max={self.sigma_max}: need 0 "
                "< sigma_min < sigma_max, both finite; "
                "try 1e-3 and 20."
            )

    def alpha(self, t: Tensor) -> Tensor:
        """Return exp(-sigma_min ** (1 - t) * sigma_max ** t)."""
        return torch.exp(-(self.sigma_min ** (1.0 - t)) * self.sigma_max**t)

    def rate(self, t: Tensor) -> Tensor:
        """Return log(sigma_max / sigma_min) s exp(-s), s = sigma_min^(1 - t) sigma_max^t."""
        sigma = self.sigma_min ** (1.0 - t) * self.sigma_max**t
        return math.log(self.sigma_max / self.sigma_min) * sigma * torch.exp(-sigma)

    def time_of(self, alpha: Tensor) -> Tensor:
        """Return log(-log(alpha) / sigma_min) / log(sigma_max / sigma_min)."""
        sigma = -torch.log(alpha)
        return (
            torch.log(sigma / self.sigma_min) / math.log(self.sigma_max / self.sigma_min)
        ).clamp(0.0, 1.0)


@dataclass(frozen=True)
class Polynomial:
    """Define alpha(t) = (1 - t) ** power; power 1 is linear.

    Gat et al. 2024, arXiv:2407.15595.
    """

    power: float = 1.0

    def __post_init__(self) -> None:
        check_fields(self)
        _check_positive("Polynomial", "power", self.power, "1 is linear")

    def alpha(self, t: Tensor) -> Tensor:
        """Return (1 - t) ** power."""
        return (1.0 - t) ** self.power

    def rate(self, t: Tensor) -> Tensor:
        """Return power (1 - t) ** (power - 1)."""
        return self.power * (1.0 - t) ** (self.power - 1.0)

    def time_of(self, alpha: Tensor) -> Tensor:
        """Return 1 - alpha ** (1 / power)."""
        return (1.0 - alpha ** (1.0 / self.power)).clamp(0.0, 1.0)


@dataclass(frozen=True)
class Exponential:
    """Define alpha(t) = exp(-speed t), noise at a constant rate.

    Campbell et al. 2022, arXiv:2205.14987.
    """

    speed: float = 4.0

    def __post_init__(self) -> None:
        check_fields(self)
        _check_positive("Exponential", "speed", self.speed, "4 leaves 2% clean at t = 1")

    def alpha(self, t: Tensor) -> Tensor:
        """Return exp(-speed t)."""
        return torch.exp(-self.speed * t)

    def rate(self, t: Tensor) -> Tensor:
        """Return speed exp(-speed t)."""
        return self.speed * torch.exp(-self.speed * t)

    def time_of(self, alpha: Tensor) -> Tensor:
        """Return -log(alpha) / speed."""
        return (-torch.log(alpha) / self.speed).clamp(0.0, 1.0)


def _check_positive(name: str, field: str, value: float, sensible: str) -> None:
    if not 0.0 < value < math.inf:
        raise ValueError(f"{name}: {field}={value}: must be finite and above 0; {sensible}.")


def reverse_rate(schedule: Schedule, t: Tensor) -> Tensor:
    """Return the rate c = -alpha' / (1 - alpha) at which a mask is replaced; 1 / t if linear."""
    return schedule.rate(t) / (1.0 - schedule.alpha(t))


def masking_rate(schedule: Schedule, t: Tensor) -> Tensor:
    """Return the rate beta = -alpha' / alpha at which a clean position turns into noise."""
    return schedule.rate(t) / schedule.alpha(t)


def hazard(schedule: Schedule, t: Tensor, s: Tensor) -> Tensor:
    """Return H = ln((1 - alpha_t) / (1 - alpha_s)), the integral of `reverse_rate` from s to t."""
    return torch.log((1.0 - schedule.alpha(t)) / (1.0 - schedule.alpha(s)))


def time_after_hazard(schedule: Schedule, t: Tensor, h: Tensor) -> Tensor:
    """Return the time s < t with `hazard(t, s)` = h."""
    return schedule.time_of(1.0 - (1.0 - schedule.alpha(t)) * torch.exp(-h))


def grid_time(step: Tensor, steps: Tensor, t_end: float) -> Tensor:
    """Return the time of point `step` of the equal grid 0..steps from 1 to `t_end`, float64."""
    fraction = (step.double() / steps).clamp(max=1.0)
    return 1.0 - (1.0 - t_end) * fraction

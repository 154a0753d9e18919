"""Make the scale of guidance a number, a number per row, or a function of time or of the laws.

    annealed       w(t) = w clip((high - t) / (high - low), 0, 1)
    ratio aware    w = least + (most - least) exp(-speed rho),  rho = |p_c - p_u| / |p_u|

Sadat et al. 2023, "CADS", arXiv:2310.17347, whose schedule is that of the condition's noise; here
it is that of the scale.  Zhu et al. 2025, "RAAG", arXiv:2508.03442, on probabilities in place of
velocities, over the positions that a row has left to write.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from dlm_sampling.errors import check_fields, check_real

ScaleOfTime = Callable[[Tensor], Tensor]
"""Maps times float64 [n] to scales [n]."""


@dataclass(frozen=True)
class Annealed:
    """Let a scale grow from 0 at time `high` to its full size at time `low`.

    Fields:
        scale: the full scale w.
        low: the scale is full at times t <= low.
        high: the scale is 0 at times t >= high, where a pass is saved.
    """

    scale: float
    low: float = 0.2
    high: float = 0.8

    def __post_init__(self) -> None:
        check_fields(self)
        if not 0.0 <= self.low < self.high <= 1.0:
            raise ValueError(
                f"Annealed: low={self.low}, high={self.high}: need 0 <= low < high <= 1; try 0.2 "
                "and 0.8."
            )

    def __call__(self, t: Tensor) -> Tensor:
        """Return the scales at times t, float64 [n]."""
        return self.scale * ((self.high - t.double()) / (self.high - self.low)).clamp(0.0, 1.0)


@dataclass(frozen=True)
class RatioAware:
    """Lower a scale where the condition changes the law much.

    Fields:
        most: scale where it changes nothing.
        speed: decay per unit of the ratio rho.
        least: scale where it changes everything.
    """

    most: float
    speed: float = 5.0
    least: float = 0.0

    def __post_init__(self) -> None:
        check_fields(self)
        if self.speed < 0.0:
            raise ValueError(f"RatioAware: speed={self.speed}: must be at least 0; try 5.")

    def of(self, conditional: Tensor, unconditional: Tensor, where: Tensor) -> Tensor:
        """Return the scales, float64 [n], by two tables of laws [n, L, V] at `where` [n, L]."""
        at = where.unsqueeze(-1)
        gap, size = (
            table.where(at, 0.0).double().square().sum((1, 2)).sqrt()
            for table in (conditional - unconditional, unconditional)
        )
        rho = gap / size.clamp_min(1e-30)
        return self.least + (self.most - self.least) * torch.exp(-self.speed * rho)


Scale = float | tuple[float, ...] | ScaleOfTime | RatioAware


def per_row(scale: object) -> object:
    """Return a list or a tensor of scales as a tuple, anything else as it is."""
    if isinstance(scale, Tensor):
        return tuple(cast("list[float]", scale.flatten().tolist()))
    return tuple(cast("list[object]", scale)) if isinstance(scale, list) else scale


def rows_of(scale: Scale) -> int | None:
    """Return the number of rows that a scale is for, or None for any number."""
    return len(cast("tuple[float, ...]", scale)) if isinstance(scale, tuple) else None


def check_scale(name: str, scale: object) -> None:
    """Check a scale of guidance.

    Raises:
        TypeError: it is no number, no list of numbers and no function of time.
    """
    if isinstance(scale, tuple):
        for i, value in enumerate(cast("tuple[object, ...]", scale)):
            check_real(f"{name}[{i}]", value)
    elif not callable(scale) and not isinstance(scale, RatioAware):
        check_real(name, scale)


def scale_at(scale: Scale, t: Tensor, rows: Tensor) -> Tensor:
    """Return the scale of each row, float64 [n].

    Raises:
        ValueError: a function of time returned another shape.
    """
    if isinstance(scale, RatioAware):
        return torch.full_like(t, scale.most, dtype=torch.float64)
    if callable(scale):
        found = torch.as_tensor(scale(t), dtype=torch.float64, device=t.device)
        if found.shape not in ((), t.shape):
            raise ValueError(
                f"scale(t) returned shape {tuple(found.shape)} for times {tuple(t.shape)}: must be "
                "one scale per time."
            )
        return found.expand(t.shape)
    if isinstance(scale, tuple):
        return torch.tensor(scale, dtype=torch.float64, device=t.device)[rows]
    return torch.full_like(t, float(scale), dtype=torch.float64)

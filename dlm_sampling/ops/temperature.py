"""Prepare temperatures for the arithmetic: positive, with an inverse that is finite and not 0."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from dlm_sampling.types import TokenLaw

LOG2E = 1.0 / math.log(2.0)
"""Exponentials are taken in base 2, which is fastest: exp(x) = 2^(x LOG2E)."""

# Temperatures beyond these are these: in float32 the inverse stays finite, and no 0, which times
# the -inf of a token that is not allowed would be NaN.
_LOWEST, _HIGHEST = 1e-30, 1e30

Temperature = float | Tensor
"""One number, or one per row, [R]."""


class TemperedLaw(NamedTuple):
    """Hold the filters of a token law together with its temperature, which may differ per row."""

    filters: TokenLaw | None  # its top_k, top_p, min_p and crossing are read; None: no filters
    temperature: Temperature  # > 0

    @property
    def is_model(self) -> bool:
        """Return whether this is known to be the model's own law without reading a tensor."""
        temperature = self.temperature
        return self.filters is None and not isinstance(temperature, Tensor) and temperature == 1.0


MODEL_LAW = TemperedLaw(None, 1.0)
"""The model's own law."""


def positive(temperature: Temperature, check: bool = True) -> Temperature:
    """Return the temperature that exponents are divided by; 0, the argmax, counts as 1.

    Args:
        temperature: >= 0, one number or [R].
        check: look at a tensor's values, which waits for the device.

    Raises:
        ValueError: with `check`, a negative, infinite or NaN entry of a tensor.
    """
    if not isinstance(temperature, Tensor):
        return float(min(max(temperature, _LOWEST), _HIGHEST)) if temperature else 1.0
    if check:
        bad = ~(temperature.isfinite() & (temperature >= 0))
        if bool(bad.any()):
            row = int(bad.nonzero()[0])
            raise ValueError(
                f"temperatures[{row}]={temperature[row].item()}: must be finite and >= 0; 0 is "
                "argmax, 1 the model's law."
            )
    return temperature.double().clamp(_LOWEST, _HIGHEST).masked_fill(temperature == 0, 1.0)


def inverse_temperature(
    temperature: Temperature, dtype: torch.dtype, *, times: float = 1.0
) -> float | Tensor:
    """Return times / temperature: one number, or [R, 1] of `dtype`."""
    if not isinstance(temperature, Tensor):
        return times / temperature
    return (times / temperature.double()).to(dtype)[:, None]

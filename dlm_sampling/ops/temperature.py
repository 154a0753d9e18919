"""Temperatures as the arithmetic needs them: positive, and with an inverse that is finite."""

from __future__ import annotations

from torch import Tensor

from dlm_sampling.ops.tiles import Heat

_COLDEST = 1e-30  # a temperature below this is this; 1 / temperature stays finite in float32


def heated(temperature: Heat, check: bool = True) -> Heat:
    """The temperature of the law that is summed; 0 counts as 1.

    Args:
        temperature: >= 0, one number or [R].
        check: look at a tensor's values, which waits for the device.

    Raises:
        ValueError: with `check`, a negative, infinite or NaN entry of a tensor.
    """
    if not isinstance(temperature, Tensor):
        return max(temperature, _COLDEST) if temperature else 1.0
    if check:
        bad = ~(temperature.isfinite() & (temperature >= 0))
        if bool(bad.any()):
            row = int(bad.nonzero()[0])
            raise ValueError(
                f"temperatures[{row}]={temperature[row].item()}: must be finite and >= 0; 0 is "
                "argmax, 1 the model's law."
            )
    return temperature.double().clamp(min=_COLDEST).masked_fill(temperature == 0, 1.0)


def cold_rows(temperature: Heat) -> bool | Tensor:
    """Which rows take the argmax: all, none, or bool [R]."""
    return temperature == 0

"""Check the fields of samplers; errors name the field, its value, allowed values and a remedy."""

from __future__ import annotations

import math
from typing import Literal

NoiseRemoval = Literal["argmax", "sample"]


def at_least(field: str, value: float, minimum: float, sensible: str) -> None:
    """Raise a ValueError unless `value` is finite and >= minimum.

    Args:
        field: the field's name.
        value: what it was.
        minimum: the smallest allowed value.
        sensible: end of the sentence, for example "the paper uses 0.9".

    Raises:
        ValueError: `value` is below the minimum, infinite or NaN.
    """
    if not minimum <= value < math.inf:
        raise ValueError(f"{field}={value}: must be finite and >= {minimum:g}; {sensible}.")


def unit_interval(field: str, value: float, sensible: str) -> None:
    """Raise a ValueError unless `value` lies in [0, 1]; arguments as in `at_least`."""
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{field}={value}: must be in [0, 1]; {sensible}.")


def log_threshold(probability: float) -> float:
    """Return the logarithm of a threshold on a probability; -inf at 0, where everything passes."""
    return math.log(probability) if probability > 0.0 else -math.inf


def check_t_end(t_end: float) -> None:
    """Raise a ValueError unless a time grid may end at `t_end`, in [0, 1)."""
    if not 0.0 <= t_end < 1.0:
        raise ValueError(f"t_end={t_end}: must be in [0, 1); the released values are about 1e-5.")

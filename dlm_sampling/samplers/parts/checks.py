"""Check the fields of samplers; errors name the field, its value, allowed values and a remedy."""

from __future__ import annotations

import math
from typing import Literal

NoiseRemoval = Literal["argmax", "sample"]

LARGEST = 1e6
"""Largest value of a field that has no limit of its own; no text or schedule needs a larger one."""
NONE_PASSES = 1.5
"""Largest threshold on a probability; above 1, no probability passes it."""


def at_least(field: str, value: float, minimum: float, sensible: str) -> None:
    """Raise a ValueError unless minimum <= value <= `LARGEST`.

    Args:
        field: the field's name.
        value: the value that was given.
        minimum: the smallest allowed value, an int for a count.
        sensible: end of the sentence, for example "the paper uses 0.9".

    Raises:
        ValueError: `value` is below the minimum, too large, infinite or NaN.
    """
    if not minimum <= value < math.inf:
        least = f"at least {minimum}" if isinstance(minimum, int) else f"finite and >= {minimum:g}"
        raise ValueError(f"{field}={value}: must be {least}; {sensible}.")
    _check_largest(field, value, sensible)


def above_zero(field: str, value: float, sensible: str) -> None:
    """Raise a ValueError unless 0 < value <= `LARGEST`; arguments as in `at_least`."""
    if not 0.0 < value < math.inf:
        raise ValueError(f"{field}={value}: must be finite and > 0; {sensible}.")
    _check_largest(field, value, sensible)


def _check_largest(field: str, value: float, sensible: str) -> None:
    if value > LARGEST:
        raise ValueError(f"{field}={value}: must be at most {LARGEST:.0f}; {sensible}.")


def probability_threshold(field: str, value: float, sensible: str) -> None:
    """Raise a ValueError unless `value` lies in [0, `NONE_PASSES`]; arguments as in `at_least`.

    A confidence may round to 1, so that a threshold which nothing passes must lie above 1.
    """
    if not 0.0 <= value < math.inf:
        raise ValueError(f"{field}={value}: must be finite and >= 0; {sensible}.")
    if value > NONE_PASSES:
        raise ValueError(
            f"{field}={value}: must be a probability, or at most {NONE_PASSES} to let none pass; "
            f"{sensible}."
        )


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

"""Name the kinds of values that a JSON file of a checkpoint may hold, and check them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeGuard

from dlm_sampling.denoisers.checkpoints.checkpoint import CheckpointError
from dlm_sampling.denoisers.checkpoints.settings import is_listing, is_mapping

LARGEST, MOST_LAYERS = 2**31, 4096


class Kind(NamedTuple):
    """Describe the values that a key may have."""

    allowed: str
    fits: Callable[[object], bool]


def is_real(value: object) -> TypeGuard[float]:
    """Return whether a value is a finite number; true and false are none.

    A whole number that torch cannot hold in 64 bits is none either.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) if isinstance(value, float) else abs(value) < 2**63


def whole(low: int, high: int, allowed: str) -> Kind:
    """Describe the whole numbers in [low, high]; true and false are none."""

    def fits(value: object) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high

    return Kind(allowed, fits)


def listing(entry: Kind, allowed: str, *, single: bool = False) -> Kind:
    """Describe a list whose entries are all of a kind; with `single` also one entry by itself."""

    def fits(value: object) -> bool:
        whole_list = is_listing(value) and all(map(entry.fits, value))
        return whole_list or (single and entry.fits(value))

    return Kind(allowed, fits)


def one_of(*values: str) -> Kind:
    """Describe a key that has one of a few values."""

    def fits(value: object) -> bool:
        return value in values

    return Kind("one of " + ", ".join(map(repr, values)), fits)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_text_or_none(value: object) -> bool:
    return value is None or isinstance(value, str)


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)


def _is_positive(value: object) -> bool:
    return is_real(value) and value > 0


def _is_share(value: object) -> bool:
    return is_real(value) and 0 < value <= 1


def _is_named(value: object) -> bool:
    return is_mapping(value) and all(v is None or LISTED.fits(v) for v in value.values())


def _is_any(value: object) -> bool:
    return True


SIZE = whole(1, LARGEST, "a whole number of at least 1")
COUNT = whole(0, LARGEST, "a whole number of at least 0")
LAYERS = whole(1, MOST_LAYERS, f"a whole number from 1 to {MOST_LAYERS}")
NUMBER = Kind("a number", is_real)
POSITIVE = Kind("a number above 0", _is_positive)
SHARE = Kind("a number above 0, at most 1", _is_share)
FLAG = Kind("true or false", _is_flag)
FLAGS = listing(whole(0, 1, ""), "a list of 0 and 1")
TEXT = Kind("a string", _is_text)
TEXTS = listing(TEXT, "a list of strings")
LISTED = listing(Kind("", _is_text_or_none), "", single=True)
ID = whole(0, LARGEST, "a token id")
IDS = listing(ID, "a token id or a list of them", single=True)
SECTION = Kind("an object", is_mapping)
NAMES = Kind("an object of strings", _is_named)
ANY = Kind("anything", _is_any)


def check_kinds(name: str, file: str, values: Mapping[str, Any], kinds: Mapping[str, Kind]) -> None:
    """Refuse values of another kind than declared; null is the same as absent.

    Args:
        name: the checkpoint's.
        file: name of the file that holds the values.
        values: by key.
        kinds: by key; absent keys are no error.

    Raises:
        CheckpointError: with file, key, value, and what is allowed.
    """
    for key, kind in kinds.items():
        value = values.get(key)
        if value is not None and not kind.fits(value):
            raise CheckpointError(
                f"{name!r}: {file} has {key}={short(value)}: must be {kind.allowed}."
            )


def short(value: object) -> str:
    """Write a value for a message, cut to 60 characters."""
    try:
        text = repr(value)
    except RecursionError:
        text = f"a deeply nested {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."

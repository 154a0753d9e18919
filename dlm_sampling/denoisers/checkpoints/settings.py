"""Read values of transformers' configs and tokenizers, whose attributes differ between versions.

This is the one place where an attribute may be missing; everything behind it has a type.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from numbers import Real
from typing import TYPE_CHECKING, Any, TypeVar

from dlm_sampling.denoisers.checkpoints.checkpoint import CheckpointError

if TYPE_CHECKING:
    from typing_extensions import TypeIs

T = TypeVar("T")


def setting(source: object, name: str, kind: type[T]) -> T | None:
    """Read attribute `name` of a config, model or tokenizer; None if it is None or missing.

    Args:
        source: the object; None has no attributes.
        name: the attribute.
        kind: type of the value.

    Raises:
        CheckpointError: the value is of another type.
    """
    value: object = getattr(source, name, None)
    if value is None or isinstance(value, kind):
        return value
    raise CheckpointError(
        f"{type(source).__name__} has {name}={value!r}: must be of type {kind.__name__}."
    )


def number(source: object, name: str) -> float | None:
    """Read an attribute that is a number, as a float; None if it is None or missing.

    Raises:
        CheckpointError: the value is no number.
    """
    value = setting(source, name, Real)
    return None if value is None else float(value)


def section(source: object, name: str) -> dict[str, Any]:
    """Read an attribute that is a mapping; empty if it is None or missing.

    Raises:
        CheckpointError: the value is no mapping.
    """
    value = setting(source, name, object)
    if value is None:
        return {}
    if is_mapping(value):
        return dict(value)
    raise CheckpointError(f"{type(source).__name__} has {name}={value!r}: must be a mapping.")


def listed_ids(source: object, name: str) -> tuple[int, ...]:
    """Read an attribute that is a token id, a list of them, or missing; always as a tuple.

    Raises:
        CheckpointError: the value is something else.
    """
    return token_ids(getattr(source, name, None), f"{type(source).__name__} has {name}")


def token_ids(value: object, where: str) -> tuple[int, ...]:
    """Turn a token id, a list of them, or None into a tuple.

    Args:
        value: the value.
        where: start of the message of an error: the object that holds the value.

    Raises:
        CheckpointError: the value is something else.
    """
    if value is None:
        return ()
    ids = tuple(value) if is_listing(value) else (value,)
    found = tuple(i for i in ids if isinstance(i, int))
    if len(found) < len(ids):
        raise CheckpointError(f"{where}={value!r}: must be a token id or a list of them.")
    return found


def is_mapping(value: object) -> TypeIs[Mapping[str, Any]]:
    """Return whether a value is a mapping, as a JSON object is."""
    return isinstance(value, Mapping)


def is_listing(value: object) -> TypeIs[Collection[object]]:
    """Return whether a value is a list, a tuple or a set."""
    return isinstance(value, list | tuple | set)

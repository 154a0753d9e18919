"""Act on all batch rows of a tree of tensors at once: select, repeat, split, merge, copy, store.

A tree is a tensor, None, a tuple or NamedTuple of trees, or a frozen dataclass whose fields are
trees.  Every tensor in it has one leading dimension, the A batch rows; anything else in it (a
number, a string) belongs to all rows, stays as it is, and is the same in trees that are merged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from enum import Enum
from types import NoneType
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from dlm_sampling.errors import named

T = TypeVar("T")


def map_rows(fn: Callable[..., Tensor], tree: T, *others: T) -> T:
    """Apply `fn` to every tensor of a tree, together with the matching tensors of other trees.

    Raises:
        ValueError: the trees differ in their parts, or in a value that belongs to all rows.
        TypeError: a tree holds another object, such as a list, whose tensors would be left out.
    """
    if isinstance(tree, Tensor):
        if not all(isinstance(other, Tensor) for other in others):
            raise _mismatch(tree, *others)
        return cast("T", fn(tree, *others))
    if isinstance(tree, tuple):
        whole = cast("tuple[Any, ...]", tree)
        rest = cast("tuple[tuple[Any, ...], ...]", others)
        made = type(whole)
        if any(type(other) is not made or len(other) != len(whole) for other in rest):
            raise _mismatch(whole, *rest)
        parts = [map_rows(fn, part, *(o[i] for o in rest)) for i, part in enumerate(whole)]
        # A NamedTuple takes its fields one by one, a plain tuple takes them as one sequence.
        return cast("T", tuple(parts) if made is tuple else made(*parts))
    if is_dataclass(tree) and not isinstance(tree, type):
        if any(type(other) is not type(tree) for other in others):
            raise _mismatch(tree, *others)
        made = {
            field.name: map_rows(
                fn, getattr(tree, field.name), *(getattr(o, field.name) for o in others)
            )
            for field in fields(tree)
        }
        return cast("T", type(tree)(**made))
    if any(type(other) is not type(tree) for other in others):
        raise _mismatch(tree, *others)
    if not isinstance(tree, _SHARED):
        raise TypeError(
            f"a tree of row tensors holds {named(tree)}: the state of a sampler or a "
            "network must be a tensor, None, a number or a string, or a tuple, NamedTuple or "
            "frozen dataclass of these."
        )
    # One of two values would be dropped in silence, and rows of its tree would lose it.
    if any(other is not tree and other != tree for other in others):
        raise ValueError(
            f"trees of row tensors hold {' and '.join(map(repr, (tree, *others)))} in the same "
            "place: a number or a string in a state belongs to all rows and must not change; keep "
            "what changes as a tensor with an entry per row, such as int64 [B]."
        )
    return tree


_SHARED = (NoneType, bool, int, float, str, Enum, torch.device, torch.dtype)
"""Values that belong to all rows."""


def _mismatch(*trees: object) -> ValueError:
    kinds = " and ".join(type(tree).__name__ for tree in trees)
    return ValueError(
        f"trees of row tensors do not match: {kinds} in the same place. A state must keep its "
        "parts from step to step."
    )


def with_parts(tree: T, **parts: object) -> T:
    """Return a frozen dataclass with other values of some fields, and the rest as it is.

    As `dataclasses.replace`, for what a run does in every step: several times faster, as neither
    `__init__` nor `__post_init__` is run.  What a cached property found stays as it is.
    """
    changed = object.__new__(type(tree))
    vars(changed).update(vars(tree), **parts)
    return changed


def row_tensors(tree: object) -> Iterator[Tensor]:
    """Yield every tensor of a tree, always in the same order."""
    found: list[Tensor] = []

    def keep(part: Tensor) -> Tensor:
        found.append(part)
        return part

    map_rows(keep, tree)
    yield from found


def select_rows(tree: T, index: Tensor) -> T:
    """Keep the rows of `index`: drop with a bool mask [A], reorder and repeat with int64 [n]."""

    def pick(part: Tensor) -> Tensor:
        return part[index]

    return map_rows(pick, tree)


def no_rows(tree: T) -> T:
    """Keep no row, without an index."""

    def cut(part: Tensor) -> Tensor:
        return part[:0]

    return map_rows(cut, tree)


def repeat_rows(tree: T, n: int) -> T:
    """Repeat every row n times, copies of a row adjacent."""

    def repeat(part: Tensor) -> Tensor:
        return part.repeat_interleave(n, 0)

    return map_rows(repeat, tree)


def split_rows(tree: T, size: int) -> Iterator[T]:
    """Yield the tree in parts of at most `size` rows, in order; the parts share its memory."""
    count = len(next(row_tensors(tree)))
    for start in range(0, count, size):

        def cut(part: Tensor, start: int = start) -> Tensor:
            return part[start : start + size]

        yield map_rows(cut, tree)


def where_rows(rows: Tensor, new: T, old: T) -> T:
    """Take the rows of `new` where `rows` (bool [A]) is True, else the rows of `old`."""

    def merge(value: Tensor, before: Tensor) -> Tensor:
        if value is before:
            return before
        chosen = rows.view(-1, *[1] * (before.ndim - 1))
        return torch.where(chosen, value.to(before.dtype), before)

    return map_rows(merge, new, old)


def copy_rows(tree: T) -> T:
    """Copy every tensor, so that nothing else shares its memory."""
    return map_rows(torch.clone, tree)


def store_rows(tree: T, rows: Tensor, values: T) -> T:
    """Replace the rows `rows` (int64 [n]) of a tree by `values`, a tree of n rows."""

    def store(part: Tensor, new: Tensor) -> Tensor:
        return part.index_copy(0, rows, new.to(part.dtype))

    return map_rows(store, tree, values)

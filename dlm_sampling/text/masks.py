"""Read the masks that a caller gives beside token ids: the attention mask and the infill mask."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from dlm_sampling.text.arguments import items_of, plain


def mask_rows(name: str, mask: object, lengths: list[int]) -> list[list[bool]]:
    """Return a mask as one list of bools per row.

    Args:
        name: the argument's name.
        mask: a tensor or array [batch, length], or lists; one row may come without the batch.
        lengths: tokens of every row.

    Raises:
        TypeError: the mask is something else, or an entry is neither True, False, 0 nor 1.
        ValueError: the mask has another number of rows, or a row another length.
    """
    mask = plain(mask)
    if isinstance(mask, Tensor) and mask.ndim > 2:
        shape = tuple(mask.shape)
        raise ValueError(f"{name} {shape}: must be [batch, length], one entry per token.")
    rows = [[_flag(name, entry) for entry in row] for row in _rows(name, mask)]
    if len(rows) != len(lengths):
        raise ValueError(
            f"{name} has {len(rows)} rows for {len(lengths)} prompts: give one per prompt."
        )
    for i, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        if len(row) != length:
            raise ValueError(
                f"{name}: row {i} has {len(row)} entries for {length} tokens; give one per token."
            )
    return rows


def _rows(name: str, mask: object) -> list[list[Any]]:
    """Return the entries of a mask, row by row."""
    entries = items_of(mask)
    if entries is None:
        raise _no_mask(name, mask)
    rows = [items_of(entry) for entry in entries]
    if all(row is None for row in rows) and entries:
        return [entries]
    found = [row for row in rows if row is not None]
    if len(found) < len(rows):
        raise _no_mask(name, mask)
    return found


def _flag(name: str, entry: object) -> bool:
    """Return an entry of a mask as a bool."""
    value = plain(entry)
    if isinstance(value, bool | int | float) and value in (0, 1):
        return bool(value)
    raise _no_mask(name, entry)


def _no_mask(name: str, given: object) -> TypeError:
    return TypeError(
        f"{name}: {given!r} is no mask. Give True or False for every token: a tensor "
        "[batch, length], or one list per prompt."
    )

"""Read arguments of `generate` that come in several forms, and name items that do not fit."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence, Set
from operator import index
from typing import Any, Protocol, SupportsIndex, TypeGuard, cast, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from dlm_sampling import ops
from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.errors import SamplingWarning, named
from dlm_sampling.text.encoding import check_encodable

Ids = SupportsIndex | Iterable[SupportsIndex]
Drafts = str | Ids | Sequence[str] | Sequence[Ids]
Stop = str | Sequence[str] | Sequence[Sequence[str] | None]


@runtime_checkable
class SupportsArray(Protocol):
    """Define an object that numpy turns into an array: of another library, or a table's column."""

    def __array__(self) -> np.ndarray[Any, Any]:
        """Return the array."""
        ...


def plain(value: object) -> object:
    """Return arrays of numbers as tensors, other arrays as lists, and scalars as numbers."""
    if isinstance(value, SupportsArray) and not isinstance(value, Tensor):
        array = np.asarray(value)
        if array.ndim == 0 or array.dtype.kind not in "biuf":
            return array.tolist()
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("=")))
    if isinstance(value, Tensor) and value.ndim == 0:
        return value.item()
    return value


def is_listing(value: object) -> TypeGuard[Iterable[Any]]:
    """Return whether it holds items in an order, as a list does, and is neither text nor tensor."""
    if isinstance(value, str | bytes | bytearray | memoryview | Tensor):
        return False
    return isinstance(value, Iterable) and not isinstance(value, Mapping | Set)


def items_of(value: object) -> list[Any] | None:
    """Return the items of a list, an iterator, a tensor or an array; None of anything else."""
    value = plain(value)
    if isinstance(value, Tensor):
        return cast("list[Any]", value.tolist())
    return list(value) if is_listing(value) else None


def read_ids(name: str, ids: object, vocab_size: int) -> tuple[int, ...]:
    """Read token ids that a caller gives as one id or several.

    Args:
        name: the argument's name.
        ids: a whole number, or a list, tuple, range, set, tensor or array of them.
        vocab_size: ids must lie below.

    Raises:
        TypeError: they are something else.
        ValueError: an id lies outside the vocabulary.
    """
    items = list(cast("Set[Any]", ids)) if isinstance(ids, Set) else items_of(ids)
    try:
        found = tuple(map(whole_number, [ids] if items is None else items))
    except TypeError:
        raise TypeError(f"{name}={ids!r}: must be token ids, such as {name}=[2].") from None
    for token in found:
        if not 0 <= token < vocab_size:
            raise ValueError(f"{name}: {token} is no token id; must be in [0, {vocab_size}).")
    return found


def whole_number(value: object) -> int:
    """Return a whole number of Python, numpy or torch as an int.

    Raises:
        TypeError: it is none; True and False are none.
    """
    value = plain(value)
    if isinstance(value, bool | Tensor) or not isinstance(value, SupportsIndex):
        raise TypeError(f"{value!r} is no whole number.")
    return index(value)


def eos_ids(eos_token_id: object, denoiser: Denoiser) -> tuple[int, ...]:
    """Return the ids that end a text: the caller's, or the model's own."""
    if eos_token_id is None:
        own = () if denoiser.eos_token_id is None else (denoiser.eos_token_id,)
        return (*own, *denoiser.further_eos_ids)
    return read_ids("eos_token_id", eos_token_id, denoiser.vocab_size)


def read_stops(stop: object, prompts: int, tokenizer: object) -> list[tuple[str, ...]]:
    """Read the argument `stop` of `generate` as stop strings per prompt.

    Args:
        stop: None, a string, a list of strings for all prompts, or a list with one entry per
            prompt: a list of strings, or None for none.
        prompts: number of prompts.
        tokenizer: the tokenizer, or None.

    Raises:
        TypeError: it is something else.
        ValueError: a string is empty or cannot be encoded, the lists are not one per prompt, or
            there is no tokenizer.
    """
    if stop is None:
        return [()] * prompts
    given: list[Any] = [stop] if isinstance(stop, str) else _strings(stop)
    if all(isinstance(entry, str) for entry in given):
        rows = [tuple(cast("list[str]", given))] * prompts
    else:
        rows = [() if entry is None else tuple(_strings(entry)) for entry in given]
        if len(rows) != prompts:
            raise ValueError(
                f"stop has {len(rows)} lists for {prompts} prompts: give one list per prompt, or "
                "strings for all of them."
            )
    for entry in {entry for row in rows for entry in row}:
        if not isinstance(entry, str):
            raise _no_stop(stop)
        if not entry:
            raise ValueError("stop: '' stands in every text; leave it out.")
        check_encodable(entry, f"stop={entry!r}")
    if tokenizer is None and any(rows):
        raise ValueError(
            "stop: stop strings are looked for in the text, and the denoiser has no tokenizer. "
            "Pass tokenizer=, or eos_token_id=."
        )
    return rows


def _strings(value: object) -> list[Any]:
    found = items_of(value)
    if found is None:
        raise _no_stop(value)
    return found


def _no_stop(given: object) -> TypeError:
    return TypeError(
        f"stop={given!r}: must be a string, a list of strings such as ['Question:'], or one such "
        "list per prompt."
    )


class RowSeed(int):
    """Hold the seed of one row, a whole number that `read_seeds` tells from the seed of a call."""


def read_seeds(seed: object, rows: int) -> list[int]:
    """Return one seed per row.

    Args:
        seed: None for a random one, a whole number, or one per row in a list, tensor or array.
        rows: number of rows.

    Raises:
        TypeError: it is something else.
        ValueError: there are more or fewer seeds than rows, or one does not fit in 64 bits.

    A row's seed that stands alone is the seed of a call, as any number is, and a warning says so.
    """
    if seed is None:
        return ops.row_seeds(ops.fresh_seed(), rows)
    if isinstance(seed, RowSeed):
        warnings.warn(
            f"seed={seed} is the seed of one row, and as a number it begins a new run, with other "
            f"texts: seed=[{seed}] repeats the row.",
            SamplingWarning,
            stacklevel=2,
        )
    items = items_of(seed)
    try:
        if items is None:
            return ops.row_seeds(whole_number(seed), rows)
        return ops.row_seeds([whole_number(item) for item in items], rows)
    except TypeError:
        raise TypeError(
            f"seed={seed!r}: must be a whole number, such as 0, or a list of one per row."
        ) from None


@runtime_checkable
class TokenizerLike(Protocol):
    """Define the methods of a tokenizer that every call needs."""

    def __call__(self, text: str, /) -> Any:
        """Encode a text."""
        ...

    def decode(self, ids: Sequence[int], /) -> str:
        """Decode token ids."""
        ...


def check_tokenizer(tokenizer: object) -> None:
    """Check that a tokenizer is one, and not its name.

    Raises:
        TypeError: it can neither encode nor decode.
    """
    if tokenizer is not None and not isinstance(tokenizer, TokenizerLike):
        raise TypeError(
            f"tokenizer is {named(tokenizer)}: must be a loaded tokenizer, such as "
            "transformers.AutoTokenizer.from_pretrained(...)."
        )

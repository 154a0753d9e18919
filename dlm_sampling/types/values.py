"""Read the values of a tensor as typed Python values, with one transfer from the device.

On the CPU there is no transfer: NumPy reads the memory of the tensor, without an operator.

torch's own `tolist` and `unique` have no types; here is the one place that names them.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor


def ints(values: Tensor) -> list[int]:
    """Return the entries of an integer tensor [n]."""
    return cast("list[int]", values.tolist())


def floats(values: Tensor) -> list[float]:
    """Return the entries of a floating-point tensor [n]."""
    return cast("list[float]", values.tolist())


def bools(values: Tensor) -> list[bool]:
    """Return the entries of a bool tensor [n]."""
    return cast("list[bool]", values.tolist())


def some(mask: Tensor) -> bool:
    """Return whether any entry of a bool tensor is set."""
    if not mask.is_cpu:
        return bool(mask.any())
    entries = mask.numpy().tobytes()  # bytes are looked through without a reduction's set-up
    return entries.count(0) < len(entries)


def every(mask: Tensor) -> bool:
    """Return whether all entries of a bool tensor are set."""
    return 0 not in mask.numpy().tobytes() if mask.is_cpu else bool(mask.all())


def int_rows(table: Tensor) -> list[list[int]]:
    """Return the rows of an integer tensor [n, m]."""
    return cast("list[list[int]]", table.tolist())


def float_rows(table: Tensor) -> list[list[float]]:
    """Return the rows of a floating-point tensor [n, m]."""
    return cast("list[list[float]]", table.tolist())


def distinct(table: Tensor) -> tuple[Tensor, Tensor]:
    """Return the different entries along the first dimension, sorted, and the number of each.

    Args:
        table: [n] or [n, m].

    Returns:
        The k entries [k] or [k, m], and int64 [n] with table[i] == entries[number[i]].
    """
    if table.ndim == 1:  # many times faster than rows of a table
        return cast("tuple[Tensor, Tensor]", table.unique(return_inverse=True))
    if len(table) and bool((table == table[0]).all()):
        return table[:1], torch.zeros(len(table), dtype=torch.int64, device=table.device)
    return cast("tuple[Tensor, Tensor]", table.unique(dim=0, return_inverse=True))

"""Gives the logits of a pass to an operator: as a tensor, through an output head, or on demand."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from dlm_sampling import ops

if TYPE_CHECKING:
    pass


_BLOCK_ELEMENTS = 2**22  # logits that exist at a time when they are computed on demand


_HOOKS = ("_forward_hooks", "_forward_pre_hooks")  # with these a call is more than a product


_LEAST_ROWS, _LEAST_ROWS_GPU = 64, 256  # and never fewer rows: a head has a whole matrix to read


class Read(NamedTuple):
    """Logits as an operator takes them."""

    source: ops.Source | ops.Pair
    rows: Tensor | None = None  # int64 [R], which of its rows; None: all of them in order


def headed(values: Tensor, head: Callable[[Tensor], Tensor] | None, vocab_size: int) -> ops.Source:
    """Logits of the rows of `values`, through the head if there is one."""
    if head is None:
        return values
    count, device, block = len(values), values.device, _block(values.device, vocab_size)
    matrix = _matrix(head)
    if matrix is not None and matrix.weight.dtype == values.dtype:
        return ops.head_rows(values, matrix.weight, bias=matrix.bias, block=block)
    return ops.LogitRows(lambda i: head(values[i]), count, vocab_size, device, block)


def _matrix(head: Callable[[Tensor], Tensor]) -> nn.Linear | None:
    """The head, if it is a matrix and nothing else: no adapter, no hook, no gradient wanted."""
    if not isinstance(head, nn.Linear) or type(head) is not nn.Linear:
        return None
    if torch.is_grad_enabled() or "forward" in vars(head):
        return None
    return None if any(getattr(head, hooks) for hooks in _HOOKS) else head


def on_demand(source: ops.Source | ops.Pair) -> ops.LogitRows:
    """Any source as one that makes the rows asked for."""
    if isinstance(source, ops.LogitRows):
        return source
    if isinstance(source, ops.Pair):
        return source.rows()
    count, vocab = source.shape
    block = _block(source.device, vocab)
    return ops.LogitRows(lambda i: source.index_select(0, i), count, vocab, source.device, block)


def _block(device: torch.device, vocab_size: int) -> int:
    """How many rows of logits exist at a time when they are made on demand."""
    least = _LEAST_ROWS_GPU if device.type == "cuda" else _LEAST_ROWS
    return max(least, min(8192, _BLOCK_ELEMENTS // vocab_size))

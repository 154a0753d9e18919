"""Read logits from a tensor, or from a function that makes the rows asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dlm_sampling.ops.host_sync import sync_allowed
from dlm_sampling.ops.scratch import Scratch
from dlm_sampling.ops.vocabulary import TILE, grid

_PITCH = 64  # elements; rows that begin at a multiple are read 16 bytes at a time

_BLOCK = {"cpu": 1 << 18}  # logits of winning tiles that are looked at together
_BLOCK_GPU = 1 << 23


@dataclass(frozen=True)
class LogitRows:
    """Make logits on demand, from an output head over hidden states or from two predictions.

    Args:
        fetch: maps row indices, int64 [r], to logits [r, vocab_size].  Every row is asked for once.
        count: number of rows, N.
        vocab_size: V.
        device: device of the logits.
        block: most rows in one call; block * V logits exist at a time.
        dtype: of the logits, or None where it is not known before they are made.
    """

    fetch: Callable[[Tensor], Tensor]
    count: int
    vocab_size: int
    device: torch.device
    block: int = 64
    dtype: torch.dtype | None = None

    @property
    def head(self) -> Head | None:
        """Return the output head whose logits these are, or None if something is done to them."""
        return self.fetch if isinstance(self.fetch, Head) else None


class Head:
    """Map row indices to logits by a linear output head over hidden states.

    Args:
        hidden: [N, d].
        weight: [V, d].
        bias: [V], or None.
    """

    def __init__(self, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> None:
        self.hidden, self.weight, self.bias = hidden, weight, bias
        self._room: Tensor | None = None

    @torch.no_grad()
    def __call__(self, index: Tensor) -> Tensor:
        """Return the logits of the rows int64 [r], as [r, V]; the next call overwrites them."""
        vocab = self.weight.shape[0]
        if self._room is None or self._room.shape[0] < len(index):
            self._room = self.hidden.new_empty(len(index), -(-vocab // _PITCH) * _PITCH)
        out = self._room[: len(index), :vocab]
        chosen, down = self.hidden.index_select(0, index), self.weight.T
        if self.bias is None:
            return torch.mm(chosen, down, out=out)
        return torch.addmm(self.bias, chosen, down, out=out)


def head_rows(
    hidden: Tensor, weight: Tensor, *, bias: Tensor | None = None, block: int = 256
) -> LogitRows:
    """Return the logits of a linear output head, made for the rows asked for, a block at a time.

    Every block is written into the same buffer, so that block * V logits exist at most, and its
    rows lie a multiple of 64 apart, which keeps the kernels' reads wide for every V.  What `fetch`
    returned is gone at its next call.  Where the kernels run, `draw` without filters may read
    `hidden` and `weight` itself and make no logits at all; DLM_FUSED_HEAD "auto" (default: where
    that was measured faster, nowhere yet), "on" or "off" decides.

    Args:
        hidden: [N, d].
        weight: [V, d], of the same dtype.
        bias: [V], or None.
        block: most rows at a time; 256 by the arithmetic of a large GPU, which has not been timed.

    Raises:
        ValueError: the two do not fit, or block < 1.
    """
    if hidden.ndim != 2 or weight.ndim != 2 or hidden.shape[1] != weight.shape[1]:
        shapes = f"{tuple(hidden.shape)} and {tuple(weight.shape)}"
        raise ValueError(f"hidden and weight have shapes {shapes}: must be [N, d] and [V, d].")
    if block < 1:
        raise ValueError(f"block={block}: must be at least 1; try 256.")
    return LogitRows(
        Head(hidden, weight, bias), hidden.shape[0], weight.shape[0], hidden.device, block,
        hidden.dtype,
    )  # fmt: skip


Source = Tensor | LogitRows
"""Logits [N, V] of any float dtype and strides, or a `LogitRows`."""


class Block(NamedTuple):
    """Hold some of the rows asked for: row i is `logits[rows[i]]`, or `logits[i]` without rows."""

    logits: Tensor
    rows: Tensor | None  # int64 [b]
    span: slice  # which of the rows asked for
    size: int  # b
    vocab: int
    dtype: torch.dtype  # of the arithmetic: float64 for float64 logits, else float32

    @classmethod
    def of(cls, logits: Tensor, rows: Tensor | None, start: int = 0) -> Block:
        """Take rows of `logits`, of which `start` others were asked for before."""
        size = (logits if rows is None else rows).shape[0]
        dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
        return cls(logits, rows, slice(start, start + size), size, logits.shape[1], dtype)

    def chunk(self, here: slice, scratch: Scratch, name: str = "logits") -> Tensor:
        """Return the logits of some rows, [r, V], in the dtype of the arithmetic; do not write."""
        logits, rows = self.logits, self.rows
        if rows is None and logits.dtype == self.dtype:
            return logits[here]
        out = scratch.rows(name, here.stop - here.start, self.vocab, self.dtype)
        self.copy(here, out)
        return out

    def copy(self, here: slice | None, out: Tensor) -> None:
        """Write the logits of some rows of the block to `out` [r, V]; None: of all."""
        logits, rows = self.logits, self.rows
        if rows is None:
            out.copy_(part_of(logits, here))
        elif logits.dtype == self.dtype:
            torch.index_select(logits, 0, part_of(rows, here), out=out)
        else:
            out.copy_(logits.index_select(0, part_of(rows, here)))

    def at(self, ids: Tensor) -> Tensor:
        """Return one logit per row, [b], of the vocabulary ids int64 [b]."""
        if self.rows is None:
            return self.logits.gather(1, ids[:, None])[:, 0].to(self.dtype)
        return self.logits[self.rows, ids].to(self.dtype)

    def tile_logits(self, tile: Tensor) -> Tensor:
        """Return the logits [b, width] of one tile per row (int64 [b]); junk where no id is."""
        if self.logits.is_cpu and sync_allowed():
            return self._tiles_by_numpy(tile.numpy())
        full, rest = divmod(self.vocab, TILE)
        rows = self.rows
        if rows is None:
            rows = torch.arange(self.size, device=self.logits.device)
        out = self.logits.new_empty(self.size, grid(self.vocab)[1])
        if full:
            out = tiles_of(self.logits)[rows, tile.clamp(max=full - 1)]
        if rest:
            # Read for every row: to pick the rows that need it would wait for the device.
            ragged, tail = (tile == full).unsqueeze(1), self.logits[rows, full * TILE :]
            out[:, :rest] = torch.where(ragged, tail, out[:, :rest])
        return out.to(self.dtype)

    def _tiles_by_numpy(self, tile: NDArray[np.int64]) -> Tensor:
        """Return `tile_logits` by NumPy, which copies whole tiles where torch copies numbers."""
        full, rest = divmod(self.vocab, TILE)
        words = self.logits.detach()
        # NumPy knows no bfloat16, and a copy asks for no more than its size.
        table = (words.view(torch.int16) if words.dtype == torch.bfloat16 else words).numpy()
        rows = np.arange(self.size) if self.rows is None else self.rows.numpy()
        if full:
            down, across = table.strides
            shape = (table.shape[0], full, TILE)
            tiles = np.lib.stride_tricks.as_strided(table, shape, (down, TILE * across, across))
            out = tiles[rows, np.minimum(tile, full - 1)]
        else:
            out = np.zeros((self.size, grid(self.vocab)[1]), table.dtype)
        ragged = np.flatnonzero(tile == full)
        if len(ragged):
            out[ragged, :rest] = table[rows[ragged], full * TILE :]
        found = torch.from_numpy(out)
        return (found.view(words.dtype) if words.dtype == torch.bfloat16 else found).to(self.dtype)


def part_of(values: Tensor, here: slice | None) -> Tensor:
    """Return some rows of `values`, or all of them without a view of their own."""
    return values if here is None else values[here]


def one_of(parts: list[Tensor], nothing: Tensor) -> Tensor:
    """Return the rows of all parts, the only one without a copy, or `nothing` without parts."""
    return torch.cat(parts) if len(parts) > 1 else parts[0] if parts else nothing


def tiles_of(logits: Tensor) -> Tensor:
    """Return the whole tiles of logits [N, V] as a view, [N, V // TILE, TILE]."""
    down, across = logits.stride()
    shape = (logits.shape[0], logits.shape[1] // TILE, TILE)
    return logits.as_strided(shape, (down, TILE * across, across))


def shape_of(source: Source) -> tuple[int, int]:
    """Return (rows, vocabulary) of a source.

    Raises:
        ValueError: a tensor that is not floating point [N, V] with V >= 1.
    """
    if isinstance(source, LogitRows):
        return source.count, source.vocab_size
    shape = source.shape
    if len(shape) != 2 or shape[1] < 1 or not source.is_floating_point():
        raise ValueError(
            f"logits are {source.dtype} {tuple(shape)}: must be floating point [N, V]."
        )
    return shape[0], shape[1]


def blocks(source: Source, rows: Tensor | None) -> Iterable[Block]:
    """Split the rows asked for (int64 [R], or None for all of them in order) into blocks."""
    if isinstance(source, LogitRows):
        return _made(source, rows)
    size = rows_together(source.device, source.shape[1])
    count = (source if rows is None else rows).shape[0]
    return (Block.of(source, rows),) if 0 < count <= size else _cut(source, rows, count, size)


@cache
def rows_together(device: torch.device, vocab: int) -> int:
    """Return the rows of a tensor of logits [N, vocab] that a draw looks at together."""
    return _BLOCK.get(device.type, _BLOCK_GPU) // max(256, grid(vocab)[1])


def _cut(source: Tensor, rows: Tensor | None, count: int, size: int) -> Iterator[Block]:
    """Yield blocks of `size` rows of a tensor."""
    for start in range(0, count, size):
        span = slice(start, start + size)
        if rows is None:
            yield Block.of(source[span], None, start)
        else:
            yield Block.of(source, rows[span], start)


def _made(source: LogitRows, rows: Tensor | None) -> Iterator[Block]:
    """Yield blocks of rows whose logits are made on demand."""
    count = source.count if rows is None else rows.shape[0]
    for start in range(0, count, source.block):
        if rows is None:
            stop = min(start + source.block, count)
            index = torch.arange(start, stop, device=source.device)
        else:
            index = rows[start : start + source.block]
        yield Block.of(source.fetch(index), None, start)

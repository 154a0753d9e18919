"""Where logits come from: a tensor, or a function that makes the rows asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

TILE = 1024
"""Vocabulary ids per tile; fixed, because it decides which random number meets which token."""

RUN = 32
"""Vocabulary ids per run; fixed like TILE."""

_PITCH = 64  # elements; rows that begin at a multiple are read 16 bytes at a time

_BLOCK = {"cpu": 1 << 18}  # logits of winning tiles that are looked at together
_BLOCK_GPU = 1 << 23


@dataclass(frozen=True)
class LogitRows:
    """Logits made on demand: an output head over hidden states, or two predictions combined.

    Args:
        fetch: maps row indices, int64 [r], to logits [r, vocab_size].  Every row is asked for once.
        count: number of rows, N.
        vocab_size: V.
        device: where the logits live.
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
        """The output head whose logits these are, or None if anything else is done to them."""
        return self.fetch if isinstance(self.fetch, Head) else None


class Head:
    """A linear output head over hidden states, as a function from row indices to logits.

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
        """Logits of the rows int64 [r], as [r, V]; gone at the next call."""
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
    """Logits of a linear output head, made for the rows asked for, a block at a time.

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


def grid(vocab: int) -> tuple[int, int]:
    """Number and width of the tiles of a row; a small vocabulary is one narrow tile."""
    return -(-vocab // TILE), min(-(-vocab // RUN) * RUN, TILE)


class Scratch:
    """Buffers that every chunk of every block reuses: fresh pages cost more than the arithmetic."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}
        self._pairs: dict[str, tuple[Tensor, Tensor]] = {}

    def padded(self, name: str, logits: Tensor) -> tuple[Tensor, Tensor]:
        """A buffer for values like `logits` [r, V], and its view as [r, V].

        The buffer is [r, tiles, width]; beyond the vocabulary it holds 0, so do not write there.
        """
        found = self._pairs.get(name)
        if found is None or found[0].shape[0] < logits.shape[0]:
            whole = logits.new_zeros(logits.shape[0], *grid(logits.shape[1]))
            found = (whole, whole.flatten(1)[:, : logits.shape[1]])
            self._pairs[name] = found
        rows = logits.shape[0]
        return (found[0][:rows], found[1][:rows]) if rows < found[0].shape[0] else found

    def flat(self, name: str, rows: int, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """A buffer [rows, V] with the columns and device of `like`; holds whatever is in it."""
        found = self._buffers.get(name)
        if found is None or found.shape[0] < rows:
            found = torch.empty(rows, like.shape[1], dtype=dtype or like.dtype, device=like.device)
            self._buffers[name] = found
        return found[:rows]


@dataclass(frozen=True)
class Block:
    """Some of the rows asked for: row i is `logits[index[i]]`, or `logits[i]` without an index."""

    logits: Tensor
    index: Tensor | None
    span: slice  # which of the rows asked for

    @property
    def size(self) -> int:
        """Rows in the block."""
        return self.span.stop - self.span.start

    @property
    def vocab(self) -> int:
        """Columns of the logits."""
        return self.logits.shape[1]

    @property
    def device(self) -> torch.device:
        """Where the logits live."""
        return self.logits.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the arithmetic: float64 for float64 logits, else float32."""
        return torch.float64 if self.logits.dtype == torch.float64 else torch.float32

    def chunk(self, here: slice, scratch: Scratch) -> Tensor:
        """Logits of some rows of the block [r, V], in the dtype of the arithmetic; do not write."""
        found, same = self.logits, self.logits.dtype == self.dtype
        if self.index is None:
            found = found[here]
        elif same:
            out = scratch.flat("rows", here.stop - here.start, found)
            return torch.index_select(found, 0, self.index[here], out=out)
        else:
            found = found.index_select(0, self.index[here])
        return (
            found if same else scratch.flat("rows", found.shape[0], found, self.dtype).copy_(found)
        )

    def take(self, tile: Tensor) -> Tensor:
        """Logits [b, width] of one tile per row (int64 [b]); junk beyond the vocabulary."""
        full, rest = divmod(self.vocab, TILE)
        rows = torch.arange(self.size, device=self.device) if self.index is None else self.index
        out = self.logits.new_empty(self.size, grid(self.vocab)[1])
        if full:
            across, down = self.logits.stride()[::-1]
            shape = (self.logits.shape[0], full, TILE)
            tiles = self.logits.as_strided(shape, (down, TILE * across, across))
            out = tiles[rows, tile.clamp(max=full - 1)]
        if rest:
            # Read for every row: to pick the rows that need it would wait for the device.
            ragged, tail = (tile == full).unsqueeze(1), self.logits[rows, full * TILE :]
            out[:, :rest] = torch.where(ragged, tail, out[:, :rest])
        return out.to(self.dtype)


def shape_of(source: Source) -> tuple[int, int]:
    """(rows, vocabulary) of a source.

    Raises:
        ValueError: a tensor that is not floating point [N, V] with V >= 1.
    """
    if isinstance(source, LogitRows):
        return source.count, source.vocab_size
    if source.ndim != 2 or source.shape[1] < 1 or not source.is_floating_point():
        shape = tuple(source.shape)
        raise ValueError(f"logits are {source.dtype} {shape}: must be floating point [N, V].")
    return source.shape[0], source.shape[1]


def blocks(source: Source, rows: Tensor | None) -> Iterator[Block]:
    """Split the rows asked for (int64 [R], or None for all of them in order) into blocks."""
    count = shape_of(source)[0] if rows is None else rows.shape[0]
    width = max(256, grid(shape_of(source)[1])[1])
    most = _BLOCK.get(source.device.type, _BLOCK_GPU)
    size = source.block if isinstance(source, LogitRows) else most // width
    for start in range(0, count, size):
        span = slice(start, min(start + size, count))
        if isinstance(source, LogitRows):
            every = torch.arange(span.start, span.stop, device=source.device)
            yield Block(source.fetch(every if rows is None else rows[span]), None, span)
        elif rows is None:
            yield Block(source[span], None, span)
        else:
            yield Block(source, rows[span], span)

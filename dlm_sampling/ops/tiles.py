"""One pass over the logits: what every tile of a row leaves behind.

A tile is 1024 consecutive vocabulary ids.  It leaves its largest logit and its sum of exponentials;
the rest of the library reads those, and the few tiles that decide.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from dlm_sampling.ops.filters import Boundary, truncate
from dlm_sampling.ops.host_sync import sync_allowed
from dlm_sampling.ops.sources import TILE, Block, Scratch, grid
from dlm_sampling.types import TokenLaw

_FEW = 8  # so many columns are cleared faster one by one

LOG2E = 1.0 / math.log(2.0)

Heat = float | Tensor
"""A temperature > 0: one number, or one per row, [b]."""

_CHUNK_BYTES = {"cpu": 1 << 21}  # one scratch buffer: what a core's cache holds
_CHUNK_BYTES_GPU = 1 << 28  # few launches rather than small buffers; not measured yet
_FILTER_BUFFERS = 4  # how many such buffers the filters need at once


class Table(NamedTuple):
    """Which ids may be drawn."""

    suppressed: Tensor  # int64 [n], unique
    allowed: Tensor  # bool [tiles, width], False beyond the vocabulary too
    few: tuple[int, ...]  # the suppressed ids, if they are few
    special: tuple[int, ...]  # tiles that are ragged or hold suppressed ids

    @classmethod
    def build(cls, vocab: int, law: TokenLaw, device: torch.device) -> Table:
        """The table of `law.suppressed`.

        Raises:
            ValueError: an id outside of the vocabulary.
        """
        return _table(vocab, tuple(sorted(set(law.suppressed))), device)

    @classmethod
    def of(cls, vocab: int, listed: tuple[int, ...], device: torch.device) -> Table:
        """The table of sorted ids.

        Raises:
            ValueError: an id outside of the vocabulary.
        """
        bad = [i for i in listed if not 0 <= i < vocab]
        if bad:
            raise ValueError(f"suppressed id {bad[0]} is unknown: must be in [0, {vocab}).")
        ids = torch.tensor(listed, dtype=torch.int64, device=device)
        tiles, width = grid(vocab)
        allowed = torch.arange(tiles * width, device=device) < vocab
        allowed[ids] = False
        allowed = allowed.view(tiles, width)
        special = {i // TILE for i in listed}
        if vocab % TILE:
            special.add(vocab // TILE)
        few = listed if len(listed) <= _FEW else ()
        return cls(ids, allowed, few, tuple(sorted(special)))

    def clear(self, weight: Tensor) -> None:
        """Set the weights [r, V] of the suppressed ids to 0."""
        for token in self.few:
            weight.select(1, token).zero_()
        if len(self.suppressed) > _FEW:
            weight.index_fill_(1, self.suppressed, 0.0)

    @property
    def tiles(self) -> int:
        """How many tiles a row has."""
        return self.allowed.shape[0]

    @property
    def width(self) -> int:
        """How many ids a tile holds."""
        return self.allowed.shape[1]


_table = cache(Table.of)  # a CUDA graph reads tables where they are, so none is ever dropped


class Sums(NamedTuple):
    """One law over the vocabulary, with weights exp((x - peak) / temperature); tensors [b]."""

    tiles: Tensor  # [b, tiles], sums of the weights
    total: Tensor  # float64
    entropy: Tensor  # float64, nats; meaningless unless it was asked for
    edge: Boundary | None


class Heated(NamedTuple):
    """A law at temperatures that stand apart from it, as rows may have their own."""

    law: TokenLaw  # its temperature is not read
    heat: Heat

    def same(self, other: Heated) -> bool:
        """Whether both are one law."""
        one, two = self.heat, other.heat
        alike = one is two or (isinstance(one, float) and isinstance(two, float) and one == two)
        return alike and self.law == other.law


class Sweep(NamedTuple):
    """What one pass leaves behind."""

    tile_max: Tensor  # [b, tiles], largest allowed logit
    viewed: Sums  # the law of the statistics
    sampled: Sums  # the law that tokens are drawn from


def column(heat: Heat, here: slice, like: Tensor, *, times: float = 1.0) -> float | Tensor:
    """The quotient times / temperature for rows of a block: a number, or [r, 1] like `like`."""
    if not isinstance(heat, Tensor):
        return times / heat
    return (times / heat[here].double()).to(like.dtype)[:, None]


def chunks(block: Block, law: TokenLaw) -> Iterator[slice]:
    """Split the rows of a block so that what is in hand stays in the cache of a CPU."""
    size = _CHUNK_BYTES.get(block.device.type, _CHUNK_BYTES_GPU)
    size //= _FILTER_BUFFERS if law.filters else 1
    tiles, width = grid(block.vocab)
    step = max(1, size // (tiles * width * block.dtype.itemsize))
    for start in range(0, block.size, step):
        yield slice(start, min(start + step, block.size))


def sweep(
    block: Block,
    table: Table,
    viewed: Heated,
    sampled: Heated,
    scratch: Scratch,
    check: bool,
) -> Sweep:
    """Read the logits of a block once.

    Args:
        block: the logits.
        table: the ids that may be drawn.
        viewed: the law of the statistics.
        sampled: the law of the draw.  Equal laws cost one pass.
        scratch: buffers.
        check: refuse rows that define no law.

    Raises:
        ValueError: a row holds NaN, +inf, or nothing but -inf.
    """
    tile_max = torch.empty(block.size, table.tiles, dtype=block.dtype, device=block.device)
    maxima = _TileMax(block, table)
    first = _Pass(block, table, viewed, scratch, cross=True)
    passes = [first]
    if not sampled.same(viewed):
        passes.append(_Pass(block, table, sampled, scratch, cross=False))
    for here in chunks(block, sampled.law):
        logits = block.chunk(here, scratch)
        maxima.write(logits, tile_max[here], here)
        peak = tile_max[here].amax(-1)
        for one in passes:
            one.add(logits, peak, here)
    if check:
        refuse_lawless(tile_max.amax(-1), block.span.start)
    sums = [one.finish() for one in passes]
    return Sweep(tile_max, sums[0], sums[-1])


def refuse_lawless(peak: Tensor, offset: int) -> None:
    """Raise ValueError if the largest logit of a row is not finite; rows count from `offset`."""
    good = peak.isfinite()
    if good.all():
        return
    row = int((~good).to(torch.uint8).argmax())
    what = {math.inf: "+inf", -math.inf: "no token that may be drawn"}.get(peak[row].item(), "NaN")
    raise ValueError(
        f"row {offset + row} of the logits holds {what}: check the model's output "
        "(a wider dtype helps against overflow), or suppress fewer ids."
    )


def take(block: Block, tile: Tensor, table: Table) -> Tensor:
    """Logits [b, width] of one tile per row (int64 [b]); -inf where an id may not be drawn."""
    return block.take(tile).masked_fill_(~table.allowed[tile], -math.inf)


class _TileMax:
    """Writes the largest allowed logit of every tile; a NaN shows."""

    def __init__(self, block: Block, table: Table) -> None:
        self._special: list[tuple[int, Tensor]] = []
        for tile in table.special:
            every = torch.full((block.size,), tile, dtype=torch.int64, device=block.device)
            self._special.append((tile, take(block, every, table).amax(-1)))

    def write(self, logits: Tensor, out: Tensor, here: slice) -> None:
        """The maxima of one chunk [r, V] into `out` [r, tiles]."""
        full = logits.shape[1] // TILE
        if full:
            shape = (logits.shape[0], full, TILE)
            down, across = logits.stride()
            tiles = logits.as_strided(shape, (down, TILE * across, across))
            torch.amax(tiles, -1, out=out[:, :full])
        for tile, maxima in self._special:
            out[:, tile] = maxima[here]


class _Pass:
    """Accumulates the sums of one law, chunk by chunk, in buffers that every chunk reuses."""

    def __init__(
        self, block: Block, table: Table, law: Heated, scratch: Scratch, *, cross: bool
    ) -> None:
        self._scratch, self._table, (self._law, self._heat) = scratch, table, law
        size = (block.size, table.tiles)
        self._tiles = torch.empty(size, dtype=block.dtype, device=block.device)
        # Sums of weight * exponent, for the entropy.
        self._cross = torch.empty_like(self._tiles) if cross else None
        self._edges: list[Boundary] = []

    def add(self, logits: Tensor, peak: Tensor, here: slice) -> None:
        """Read one chunk, [r, V]."""
        tiles, weight = self._scratch.padded("weight", logits)
        _, exponent = self._scratch.padded("exponent", logits)
        scale = column(self._heat, here, logits, times=LOG2E)
        # Subtracting first keeps the digits that a low temperature magnifies; base 2 is fastest.
        torch.sub(logits, peak[:, None], out=exponent).mul_(scale)
        torch.exp2(exponent, out=weight)
        self._table.clear(weight)
        if self._law.filters:
            clean = logits.index_fill(1, self._table.suppressed, -math.inf)
            heat = column(self._heat, here, logits)
            self._edges.append(truncate(weight, clean, peak, self._law, heat))
        torch.sum(tiles, -1, out=self._tiles[here])
        if self._cross is not None:
            weight.mul_(exponent)
            _write_sums(tiles, self._cross[here])

    def finish(self) -> Sums:
        """The sums of the whole block."""
        total = self._tiles.sum(-1, dtype=torch.float64)
        entropy = torch.zeros_like(total)
        if self._cross is not None:
            cross = self._cross.sum(-1, dtype=torch.float64)
            entropy = (total.log() - cross / total / LOG2E).clamp_(min=0.0)
        edges = [torch.cat(field) for field in zip(*self._edges, strict=True)]
        return Sums(self._tiles, total, entropy, Boundary(*edges) if edges else None)


def _write_sums(products: Tensor, out: Tensor) -> None:
    """Sum of each tile of products [r, tiles, width] into `out`; 0 * (-inf) counts as 0."""
    torch.sum(products, -1, out=out)
    if not sync_allowed() or not math.isfinite(out.sum().item()):
        mended = products.nan_to_num(nan=0.0).sum(-1)
        out.copy_(torch.where(out.isfinite(), out, mended))

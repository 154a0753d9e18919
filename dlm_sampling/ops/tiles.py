"""Read logits once, tile by tile.

A tile leaves its largest logit and its sum of exponentials; the rest of the library reads those,
and the few tiles that decide.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from dlm_sampling.ops.filters import Boundary, truncate
from dlm_sampling.ops.laws import LawSums, Reading, best_of, entropy_of, sum_products
from dlm_sampling.ops.scratch import Scratch
from dlm_sampling.ops.sources import Block, tiles_of
from dlm_sampling.ops.temperature import LOG2E, TemperedLaw, inverse_temperature
from dlm_sampling.ops.vocabulary import TILE, AllowedIds, grid

_CHUNK_BYTES = {"cpu": 1 << 21}  # one scratch buffer: what a core's cache holds
_CHUNK_BYTES_GPU = 1 << 28  # few launches rather than small buffers; not measured yet
_FILTER_BUFFERS = 4  # how many such buffers the filters need at once


def chunks(block: Block, *, filters: bool) -> Iterator[slice]:
    """Split the rows of a block so that the numbers in hand stay in the cache of a CPU."""
    size = _CHUNK_BYTES.get(block.logits.device.type, _CHUNK_BYTES_GPU)
    size //= _FILTER_BUFFERS if filters else 1
    tiles, width = grid(block.vocab)
    step = max(1, size // (tiles * width * block.dtype.itemsize))
    for start in range(0, block.size, step):
        yield slice(start, min(start + step, block.size))


def read_tiles(
    block: Block, allowed: AllowedIds, shown: TemperedLaw, drawn: TemperedLaw, scratch: Scratch
) -> Reading:
    """Read the logits of a block once.

    Args:
        block: the logits.
        allowed: the ids that may be drawn.
        shown: the law of the statistics.
        drawn: the law of the draw; the same object if it is the same law, which costs one pass.
        scratch: buffers.
    """
    passes = (_Pass(block, allowed, shown, scratch, entropy=True),)
    if drawn is not shown:
        passes = (*passes, _Pass(block, allowed, drawn, scratch, entropy=False))
    if allowed.tiles == 1:
        return _read_one(block, allowed, passes, scratch)
    tile_max = block.logits.new_empty(block.size, allowed.tiles, dtype=block.dtype)
    for here in chunks(block, filters=drawn.filters is not None):
        logits = block.chunk(here, scratch)
        write_tile_max(logits, allowed, tile_max[here])
        peak = tile_max[here].amax(-1)
        for one in passes:
            one.add(logits, peak, here)
    tile = tile_max.argmax(-1, keepdim=True)
    place, peak, others = best_of(take_tile(block, tile[:, 0], allowed))
    elsewhere = tile_max.scatter(1, tile, -math.inf).amax(-1)
    best = (tile * TILE + place)[:, 0]
    second = torch.maximum(others, elsewhere)
    return Reading(best, peak, second, *_sums(passes), None)


def _read_one(
    block: Block, allowed: AllowedIds, passes: tuple[_Pass, ...], scratch: Scratch
) -> Reading:
    """Read a block of a vocabulary of one tile, whose logits all stay in hand."""
    every = slice(0, block.size)
    tile = scratch.rows("tile", block.size, allowed.width, block.dtype)
    logits = tile[:, : block.vocab]
    block.copy(every, logits)
    allowed.banned.fill(tile, -math.inf)
    place, peak, second = best_of(tile)
    for one in passes:
        one.add(logits, peak, every)
    return Reading(place[:, 0], peak, second, *_sums(passes), tile)


def _sums(passes: tuple[_Pass, ...]) -> tuple[LawSums, LawSums]:
    """Return the sums of the law of the statistics and of the law of the draw."""
    shown = passes[0].sums()
    return shown, shown if len(passes) == 1 else passes[1].sums()


def take_tile(block: Block, tile: Tensor, allowed: AllowedIds) -> Tensor:
    """Return the logits [b, width] of one tile per row; -inf where an id may not be drawn."""
    return block.tile_logits(tile).masked_fill_(allowed.mask[tile], -math.inf)


def write_tile_max(logits: Tensor, allowed: AllowedIds, out: Tensor) -> None:
    """Write the largest allowed logit of every tile of logits [r, V] to `out` [r, tiles].

    A NaN shows.
    """
    full, rest = divmod(logits.shape[1], TILE)
    if full:
        tiles = tiles_of(logits)
        torch.amax(tiles, -1, out=out[:, :full])
        if allowed.whole_tiles is not None:
            some = tiles[:, allowed.whole_tiles]
            some.masked_fill_(allowed.mask[allowed.whole_tiles], -math.inf)
            out[:, allowed.whole_tiles] = some.amax(-1)
    if rest:
        tail = logits[:, full * TILE :]
        if allowed.tail is not None:
            tail = tail.masked_fill(allowed.tail, -math.inf)
        torch.amax(tail, -1, out=out[:, full])


class _Pass:
    """Accumulate the sums of one law, chunk by chunk, in buffers that every chunk reuses."""

    def __init__(
        self,
        block: Block,
        allowed: AllowedIds,
        law: TemperedLaw,
        scratch: Scratch,
        *,
        entropy: bool,
    ) -> None:
        self._allowed, self._law, self._scratch = allowed, law, scratch
        self._tiles = block.logits.new_empty(block.size, allowed.tiles, dtype=block.dtype)
        self._products = torch.empty_like(self._tiles) if entropy else None
        self._boundaries: list[Boundary] = []

    def add(self, logits: Tensor, peak: Tensor, here: slice) -> None:
        """Read one chunk, [r, V]."""
        (count, vocab), allowed, (law, temperature) = logits.shape, self._allowed, self._law
        if isinstance(temperature, Tensor):
            temperature = temperature[here]
        columns = allowed.tiles * allowed.width
        padded = self._scratch.rows("weights", count, columns, logits.dtype)
        weights, tiles = padded[:, :vocab], padded.view(count, allowed.tiles, allowed.width)
        exponents = self._scratch.rows("exponents", count, vocab, logits.dtype)
        inverse = inverse_temperature(temperature, logits.dtype, times=LOG2E)
        # Subtracting first keeps the digits that a low temperature magnifies.
        torch.sub(logits, peak[:, None], out=exponents).mul_(inverse)
        torch.exp2(exponents, out=weights)
        allowed.banned.fill(padded, 0.0)
        if law is not None:
            clean = logits.index_fill(1, allowed.suppressed.ids, -math.inf)
            natural = inverse_temperature(temperature, logits.dtype)
            self._boundaries.append(truncate(weights, clean, peak, law, natural))
        torch.sum(tiles, -1, out=self._tiles[here])
        if self._products is not None:
            allowed.suppressed.fill(exponents, 0.0)  # there 0 * (-inf) would be NaN
            weights.mul_(exponents)
            sum_products(tiles, self._products[here])

    def sums(self) -> LawSums:
        """Return the sums of the whole block."""
        total = self._tiles.sum(-1, dtype=torch.float64)
        entropy = None if self._products is None else entropy_of(total, self._products)
        boundary = None
        if self._boundaries:
            boundary = Boundary(*map(torch.cat, zip(*self._boundaries, strict=True)))
        return LawSums(self._tiles, total, entropy, boundary)

"""Read logits once, tile by tile.

A tile leaves its largest logit and its sum of exponentials; the rest of the library reads those,
and the few tiles that decide.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from dlm_sampling.ops import fused_cpu, heads_cpu
from dlm_sampling.ops.filters import Boundary, truncate
from dlm_sampling.ops.laws import (
    LawSums,
    Reading,
    entropy_of,
    largest,
    other_than,
    sum_products,
)
from dlm_sampling.ops.reads import EVERYTHING, Wanted
from dlm_sampling.ops.scratch import Scratch
from dlm_sampling.ops.sources import Block, part_of, tiles_of
from dlm_sampling.ops.temperature import LOG2E, TemperedLaw, inverse_temperature
from dlm_sampling.ops.vocabulary import TILE, AllowedIds, grid

_CHUNK_BYTES = {"cpu": 1 << 21}  # one scratch buffer: what a core's cache holds
_CHUNK_BYTES_GPU = 1 << 28  # few launches rather than small buffers; not measured yet
_FILTER_BUFFERS = 4  # how many such buffers filters that keep tables need at once


def chunks(block: Block, *, filters: bool) -> Iterator[slice]:
    """Split the rows of a block so that the numbers in hand stay in the cache of a CPU."""
    size = _CHUNK_BYTES.get(block.logits.device.type, _CHUNK_BYTES_GPU)
    size //= _FILTER_BUFFERS if filters else 1
    tiles, width = grid(block.vocab)
    step = max(1, size // (tiles * width * block.dtype.itemsize))
    for start in range(0, block.size, step):
        yield slice(start, min(start + step, block.size))


def read_tiles(
    block: Block,
    allowed: AllowedIds,
    shown: TemperedLaw | None,
    drawn: TemperedLaw | None,
    scratch: Scratch,
    *,
    wanted: Wanted = EVERYTHING,
    best: bool = True,
) -> Reading:
    """Read the logits of a block once.

    Args:
        block: the logits.
        allowed: the ids that may be drawn.
        shown: the law of the statistics, or None where its sums are not asked for.
        drawn: the law of the draw, or None where every token is the argmax; the same object as
            `shown` if it is the same law, which costs one pass.
        scratch: buffers.
        wanted: the numbers asked for of the law of the statistics.
        best: whether the token of the largest logit is asked for.
    """
    if shown is None and drawn is not None and not (best or wanted.second):
        heads = heads_cpu.read(block, allowed, drawn, chunks(block, filters=False), scratch)
        if heads is not None:
            return Reading(None, heads.peak, None, None, heads.drawn, None)
    if fused_cpu.asked():
        found = fused_cpu.read(
            block, allowed, shown, drawn, scratch, read_eagerly, wanted=wanted, best=best
        )
        if found is not None:
            return found
    return read_eagerly(block, allowed, shown, drawn, scratch, wanted=wanted, best=best)


def read_eagerly(
    block: Block,
    allowed: AllowedIds,
    shown: TemperedLaw | None,
    drawn: TemperedLaw | None,
    scratch: Scratch,
    *,
    wanted: Wanted,
    best: bool,
) -> Reading:
    """Read the logits of a block by operators of torch, on any device; see `read_tiles`."""
    one = None if shown is None else _Sums(block, allowed, shown, entropy=wanted.entropy)
    other = one
    if drawn is not shown:
        other = None if drawn is None else _Sums(block, allowed, drawn, entropy=False)
    passes = _passes(one, other, allowed, scratch)
    second = wanted.second
    if allowed.tiles > 1:
        places = _read_many(block, allowed, passes, scratch, best=best, second=second)
    else:
        drawing = drawn is not None
        places = _read_one(block, allowed, passes, scratch, best=best, second=second, drawn=drawing)
    sums = None if one is None else one.result()
    return Reading(
        places.best,
        places.peak,
        places.second,
        sums,
        sums if other is one else None if other is None else other.result(),
        places.tile,
    )


class _Places(NamedTuple):
    """Hold the largest logits of a block; see `Reading`."""

    best: Tensor | None
    peak: Tensor
    second: Tensor | None
    tile: Tensor | None


def _read_many(
    block: Block,
    allowed: AllowedIds,
    passes: tuple[_Pass, ...],
    scratch: Scratch,
    *,
    best: bool,
    second: bool,
) -> _Places:
    """Read a block of a vocabulary of several tiles, a few rows at a time."""
    tile_max = block.logits.new_empty(block.size, allowed.tiles, dtype=block.dtype)
    for here in chunks(block, filters=False):
        logits = block.chunk(here, scratch)
        write_tile_max(logits, allowed, tile_max[here])
        peak = tile_max[here].amax(-1, keepdim=True)
        for one in passes:
            one.add(logits, peak, here)
    peak = tile_max.amax(-1)
    if not (best or second):
        return _Places(None, peak, None, None)
    tile = tile_max.argmax(-1, keepdim=True)
    logits = take_tile(block, tile[:, 0], allowed)
    place = largest(logits)
    others = None
    if second:
        elsewhere = tile_max.scatter_(1, tile, -math.inf).amax(-1)
        others = torch.maximum(other_than(logits, place), elsewhere)
    return _Places((tile * TILE + place)[:, 0], peak, others, None)


def _read_one(
    block: Block,
    allowed: AllowedIds,
    passes: tuple[_Pass, ...],
    scratch: Scratch,
    *,
    best: bool,
    second: bool,
    drawn: bool,
) -> _Places:
    """Read a block of a vocabulary of one tile; its logits stay in hand where a race follows."""
    tile = scratch.rows("tile", block.size, allowed.width, block.dtype)
    logits = tile[:, : block.vocab]
    block.copy(None, logits)
    allowed.banned.fill(tile, -math.inf)
    place = largest(tile) if best or second else None
    peak = tile.amax(-1, keepdim=True) if place is None else tile.gather(1, place)
    others = None if place is None or not second else other_than(tile, place)
    # The weights take the place of logits that nothing else reads: half the memory to go through.
    last = not drawn and len(passes) == 1 and not passes[0].filters
    for one in passes:
        one.add(logits, peak, None, tile if last else None)
    found = None if place is None else place.squeeze(1)
    return _Places(found, peak.squeeze(1), others, None if last else tile)


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


class _Sums:
    """Accumulate the sums of one law, chunk by chunk."""

    def __init__(
        self, block: Block, allowed: AllowedIds, law: TemperedLaw, *, entropy: bool
    ) -> None:
        self.law = law
        self.tiles = block.logits.new_empty(block.size, allowed.tiles, dtype=block.dtype)
        self.products = torch.empty_like(self.tiles) if entropy else None
        self.boundaries: list[Boundary] = []

    def result(self) -> LawSums:
        """Return the sums of the whole block."""
        total = self.tiles.sum(-1, dtype=torch.float64)
        entropy = None if self.products is None else entropy_of(total, self.products)
        boundary = None
        if self.boundaries:
            boundary = Boundary(*map(torch.cat, zip(*self.boundaries, strict=True)))
        return LawSums(self.tiles, total, entropy, boundary)


def _passes(
    shown: _Sums | None, drawn: _Sums | None, allowed: AllowedIds, scratch: Scratch
) -> tuple[_Pass, ...]:
    """Return the passes that make these sums: one where the laws differ by filters only."""
    if shown is None or drawn is None or shown is drawn:
        only = drawn if shown is None else shown
        return () if only is None else (_Pass(allowed, (only,), scratch),)
    first, last = shown.law, drawn.law
    alike = not isinstance(first.temperature, Tensor) and not isinstance(last.temperature, Tensor)
    if alike and first.filters is None and first.temperature == last.temperature:
        return (_Pass(allowed, (shown, drawn), scratch),)
    return _Pass(allowed, (shown,), scratch), _Pass(allowed, (drawn,), scratch)


class _Pass:
    """Weigh the tokens at one temperature, in buffers that every chunk reuses.

    Args:
        allowed: the ids that may be drawn.
        laws: the sums that are made, one without filters first.
        scratch: buffers.
    """

    def __init__(self, allowed: AllowedIds, laws: tuple[_Sums, ...], scratch: Scratch) -> None:
        self._allowed, self._laws, self._scratch = allowed, laws, scratch
        self.filters = laws[-1].law.filters is not None
        self._entropy = laws[0].products is not None  # of the law of the statistics only

    def add(
        self, logits: Tensor, peak: Tensor, here: slice | None, room: Tensor | None = None
    ) -> None:
        """Read one chunk.

        Args:
            logits: [r, V].
            peak: [r, 1], the largest of each row.
            here: the rows of the block that are in the chunk; None: all of them.
            room: the whole tiles that `logits` is the beginning of, where they may be overwritten.
        """
        (count, vocab), allowed = logits.shape, self._allowed
        temperature = self._laws[0].law.temperature
        if isinstance(temperature, Tensor):
            temperature = part_of(temperature, here)
        if room is None:
            padded, weights, tiles = self._room("weights", count, vocab, logits.dtype)
        else:
            padded, weights, tiles = room, logits, room.view(count, allowed.tiles, allowed.width)
        exponents = weights
        if self._entropy:
            exponents = self._scratch.rows("exponents", count, vocab, logits.dtype)
        inverse = inverse_temperature(temperature, logits.dtype, times=LOG2E)
        # Subtracting first keeps the digits that a low temperature magnifies.
        torch.sub(logits, peak, out=exponents).mul_(inverse)
        torch.exp2(exponents, out=weights)
        allowed.banned.fill(padded, 0.0)
        for sums in self._laws:
            if sums.law.filters is not None:
                clean = logits
                if allowed.suppressed.stretches:
                    clean = self._scratch.rows("clean", count, vocab, logits.dtype).copy_(logits)
                    allowed.suppressed.fill(clean, -math.inf)
                natural = inverse_temperature(temperature, logits.dtype)
                boundary = truncate(weights, clean, peak.squeeze(1), sums.law.filters, natural)
                sums.boundaries.append(boundary)
            torch.sum(tiles, -1, out=part_of(sums.tiles, here))
            if sums.products is not None:
                allowed.suppressed.fill(exponents, 0.0)  # there 0 * (-inf) would be NaN
                if sums is self._laws[-1]:
                    weights.mul_(exponents)
                    sum_products(tiles, part_of(sums.products, here))
                else:  # the next law needs the weights
                    padded, products, room = self._room("products", count, vocab, logits.dtype)
                    torch.mul(weights, exponents, out=products)
                    allowed.banned.fill(padded, 0.0)
                    sum_products(room, part_of(sums.products, here))

    def _room(
        self, name: str, count: int, vocab: int, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return a buffer of whole tiles, and views of it as [count, vocab] and by tiles."""
        allowed = self._allowed
        padded = self._scratch.rows(name, count, allowed.tiles * allowed.width, dtype)
        return padded, padded[:, :vocab], padded.view(count, allowed.tiles, allowed.width)

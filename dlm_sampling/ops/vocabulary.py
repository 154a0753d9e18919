"""Cut the vocabulary into tiles, and say which ids may be drawn.

A tile is 1024 consecutive ids, a run is 32 consecutive ids of a tile.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

TILE = 1024
"""Vocabulary ids per tile; fixed, because it decides which random number meets which token."""

RUN = 32
"""Vocabulary ids per run; fixed like TILE."""

_FEW = 8  # so many stretches of columns are written faster one by one


def grid(vocab: int) -> tuple[int, int]:
    """Return number and width of the tiles of a row; a small vocabulary is one narrow tile."""
    return -(-vocab // TILE), min(-(-vocab // RUN) * RUN, TILE)


class Columns(NamedTuple):
    """Hold some columns of a table, to be written at once."""

    ids: Tensor  # int64 [n], ascending
    stretches: tuple[tuple[int, int], ...]  # first column and length of each

    @classmethod
    def of(cls, ids: list[int], device: torch.device) -> Columns:
        """Take ascending ids."""
        cuts = [0, *(i for i in range(1, len(ids)) if ids[i] > ids[i - 1] + 1), len(ids)]
        stretches = tuple((ids[a], b - a) for a, b in pairwise(cuts) if b > a)
        return cls(torch.tensor(ids, dtype=torch.int64, device=device), stretches)

    def fill(self, rows: Tensor, value: float) -> None:
        """Write `value` to these columns of `rows` [r, n]."""
        if len(self.stretches) > _FEW:
            rows.index_fill_(1, self.ids, value)
            return
        for first, length in self.stretches:
            rows.narrow(1, first, length).fill_(value)


class AllowedIds(NamedTuple):
    """Hold the ids of a vocabulary that may be drawn, as tables on the device."""

    tiles: int  # of a row
    width: int  # ids of a tile
    suppressed: Columns  # of a row [V]
    banned: Columns  # of a row [tiles * width]: the suppressed ids, and what is no id
    mask: Tensor  # bool [tiles, width], True where no id may be drawn
    whole_tiles: Tensor | None  # int64 [s], whole tiles that hold suppressed ids; None: none do
    tail: Tensor | None  # bool [V modulo TILE], suppressed ids of the last tile; None: none are


@cache  # a CUDA graph reads the tables where they are, so none is ever dropped
def allowed_ids(vocab: int, suppressed: tuple[int, ...], device: torch.device) -> AllowedIds:
    """Return the tables of a vocabulary without the `suppressed` ids; the first call makes them.

    Raises:
        ValueError: a suppressed id outside of the vocabulary.
    """
    listed = sorted(set(suppressed))
    bad = [i for i in listed if not 0 <= i < vocab]
    if bad:
        raise ValueError(f"suppressed id {bad[0]} is unknown: must be in [0, {vocab}).")
    (tiles, width), (full, rest) = grid(vocab), divmod(vocab, TILE)
    banned = Columns.of([*listed, *range(vocab, tiles * width)], device)
    mask = torch.zeros(tiles * width, dtype=torch.bool, device=device)
    mask[banned.ids] = True
    mask = mask.view(tiles, width)
    whole = sorted({i // TILE for i in listed if i < full * TILE})
    return AllowedIds(
        tiles=tiles,
        width=width,
        suppressed=Columns.of(listed, device),
        banned=banned,
        mask=mask,
        whole_tiles=torch.tensor(whole, device=device) if whole else None,
        tail=mask[full, :rest] if listed and listed[-1] >= full * TILE else None,
    )

"""Keep a token law as small tensors on the device; each is made once per law and device.

A law in Python numbers is copied to the device at its first draw, so a CUDA graph needs one draw
with that law before it is captured.  None is ever dropped: a graph reads them by their addresses.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from dlm_kernels.common.tiles import LOG2E, TILE

_LOG2E: float = LOG2E.value  # an exponential in base 2 is one instruction
_COLDEST, _HOTTEST = 1e-30, 1e30  # temperatures beyond are these; float32 holds their inverses
_TILE: int = TILE.value


class Law(NamedTuple):
    """Hold the fields of a dlm_sampling.TokenLaw, which may be passed instead."""

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    crossing: str = "include"
    suppressed: tuple[int, ...] = ()


class Filters(NamedTuple):
    """Hold the filters of a law; numbers that filter nothing stand for absent filters."""

    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    include: bool = True

    @classmethod
    def of(cls, law: Law | Any) -> Filters:
        """Take the filters of a law."""
        kept = 1.0 if law.top_p is None else law.top_p
        return cls(law.top_k or 0, kept, law.min_p or 0.0, law.crossing == "include")

    @property
    def active(self) -> bool:
        """Return whether any filter can drop a token."""
        return self.top_k > 0 or self.top_p < 1.0 or self.min_p > 0.0


class Suppressed(NamedTuple):
    """Hold the sorted suppressed ids, and where the ids of each tile start; int32 on the device."""

    starts: Tensor
    ids: Tensor


@cache
def suppressed_table(suppressed: tuple[int, ...], vocab: int, device: torch.device) -> Suppressed:
    """Return the table of sorted ids.  Raises ValueError for an id outside of the vocabulary."""
    bad = [i for i in suppressed if not 0 <= i < vocab]
    if bad:
        raise ValueError(f"suppressed id {bad[0]} is unknown: must be in [0, {vocab}).")
    tiles = triton.cdiv(vocab, _TILE)
    counts = torch.bincount(torch.tensor(suppressed, dtype=torch.int64) // _TILE, minlength=tiles)
    starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    # One more entry, so that the tensor is never empty.
    ids = torch.tensor([*suppressed, -1])
    return Suppressed(starts.to(device, torch.int32), ids.to(device, torch.int32))


@cache
def limits(filters: Filters, vocab: int, device: torch.device) -> Tensor:
    """Return top_k, top_p and min_p, float64 [3]."""
    most = min(filters.top_k or vocab, vocab)
    values = [most, filters.top_p, filters.min_p]
    return torch.tensor(values, dtype=torch.float64).to(device)


@cache
def number(value: int, device: torch.device) -> Tensor:
    """Return an int64 scalar on the device."""
    return torch.tensor(value, dtype=torch.int64).to(device)


@cache
def law_inverse_temperatures(statistics: float, draw: float, device: torch.device) -> Tensor:
    """Return log2(e) / temperature of statistics and draw, and whether the last is 0; [3, 1]."""
    columns = [[_LOG2E / _finite(statistics)], [_LOG2E / _finite(draw)], [float(draw == 0.0)]]
    return torch.tensor(columns, dtype=torch.float32).to(device)


def row_inverse_temperatures(temperature: Tensor, statistics: float | None) -> Tensor:
    """Return the numbers of `law_inverse_temperatures`, [3, R], for temperatures [R] of the draw.

    statistics: temperature of the statistics, or None for that of the draw.
    """
    argmax = temperature == 0
    temperature = temperature.double().masked_fill(argmax, 1.0).clamp(_COLDEST, _HOTTEST)
    draw = _LOG2E / temperature
    shown = draw if statistics is None else torch.full_like(draw, _LOG2E / _finite(statistics))
    return torch.stack([shown, draw, argmax.double()]).float()


def _finite(temperature: float) -> float:
    """Return a temperature whose inverse is finite; 0 counts as 1."""
    return min(max(temperature, _COLDEST), _HOTTEST) if temperature else 1.0

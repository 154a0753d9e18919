"""Read the tokens that top-k or min-p leave, on a CPU, without a weight of any other.

The largest logit of each group of 32 ids of a tile says in which groups those tokens are, so the
logits are read once.  Tokens and numbers are those of `ops.tiles` to the last bit, as one thread
makes them: in the last columns of a row, for which PyTorch leaves its vector loop, it rounds
exponentials in another way, and so it does here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dlm_sampling.ops import filters_cpu
from dlm_sampling.ops.filters import BINS, PER_NAT, Boundary
from dlm_sampling.ops.filters_cpu import Edges
from dlm_sampling.ops.host_sync import sync_allowed
from dlm_sampling.ops.laws import LawSums
from dlm_sampling.ops.nucleus_cpu import Ids, Numbers, Seen
from dlm_sampling.ops.scratch import Scratch
from dlm_sampling.ops.sources import Block, tiles_of
from dlm_sampling.ops.temperature import LOG2E, Temperature, TemperedLaw, inverse_temperature
from dlm_sampling.ops.vocabulary import RUN, TILE, AllowedIds
from dlm_sampling.types import TokenLaw

_LEAST_SHARE = 1e-6  # a min-p below it leaves many tokens
_SLACK = 1e-3  # nats, more than rounding moves a weight
_VECTOR = 64  # elements; PyTorch's vector loops take a divisor of it at a time


class Heads(NamedTuple):
    """Hold what one reading of the logits of a block leaves."""

    peak: Tensor  # [b], the largest logits
    drawn: LawSums


class Rows(NamedTuple):
    """Hold rows of logits that are read together, and their law."""

    logits: Tensor  # [r, V]
    peak: Tensor  # [r]
    filters: TokenLaw
    temperature: Temperature  # one number, or [r]


def read(
    block: Block, allowed: AllowedIds, law: TemperedLaw, chunks: Iterable[slice], scratch: Scratch
) -> Heads | None:
    """Read the logits of a block under a law that leaves few tokens; None where it may not.

    Args:
        block: the logits.
        allowed: the ids that may be drawn.
        law: of the draw.
        chunks: rows of the block that are read together.
        scratch: buffers.
    """
    filters = law.filters
    if filters is None or not _fits(block, allowed, filters):
        return None
    peaks, tiles, edges = list[Tensor](), list[Tensor](), list[Edges]()
    for here in chunks:
        logits, temperature = block.chunk(here, scratch), law.temperature
        groups, peak = _groups(logits, allowed)
        if not np.isfinite(peak.numpy()).all():
            return None
        if isinstance(temperature, Tensor):
            temperature = temperature[here]
        rows = Rows(logits, peak, filters, temperature)
        ids = _candidates(rows, groups, allowed)
        if ids is None:
            return None
        weights = weights_of(rows, ids)
        if not all((own > 0.0).all() for own in weights):
            return None
        if filters.top_k is None or filters.top_p is not None or filters.min_p is not None:
            kept = _passing(rows, ids, weights)
            ids = [own[some] for own, some in zip(ids, kept, strict=True)]
            weights = [own[some] for own, some in zip(weights, kept, strict=True)]
        last = np.array([own[-1] for own in ids])
        x = logits.numpy()[np.arange(len(ids)), last]
        peaks.append(peak)
        tiles.append(_tile_sums(ids, weights, allowed.tiles))
        edges.append(Edges(x, last, np.array([len(own) < 2 for own in ids])))
    logit, last_id, single = (
        torch.from_numpy(np.concatenate(part)) for part in zip(*edges, strict=True)
    )
    sums = torch.cat(tiles)
    total = sums.sum(-1, dtype=torch.float64)
    return Heads(torch.cat(peaks), LawSums(sums, total, None, Boundary(logit, last_id, single)))


def _fits(block: Block, allowed: AllowedIds, law: TokenLaw) -> bool:
    """Return whether a law may leave few tokens, and the logits lie where NumPy reads them."""
    if allowed.tiles == 1 or not sync_allowed():
        return False
    logits = block.logits
    if type(logits) is not Tensor or not logits.is_cpu:
        return False
    if law.top_k is not None:
        return filters_cpu.has_groups(block.vocab, law.top_k)
    alone = law.top_p is None or law.top_p >= 1.0
    return alone and (law.min_p or 0.0) >= _LEAST_SHARE and filters_cpu.has_groups(block.vocab)


def _groups(logits: Tensor, allowed: AllowedIds) -> tuple[Numbers, Tensor]:
    """Return the largest allowed logit of each group of each row, and of each row."""
    groups, start = filters_cpu.group_maxima(logits), logits.shape[1] // TILE * TILE
    if allowed.whole_tiles is not None:
        some = tiles_of(logits)[:, allowed.whole_tiles]
        some.masked_fill_(allowed.mask[allowed.whole_tiles], -math.inf)
        spread = groups.view(len(groups), -1, RUN)
        spread[:, allowed.whole_tiles] = filters_cpu.maxima_of(some)
    peak = groups.amax(-1)
    if start < logits.shape[1]:
        tail = logits[:, start:]
        if allowed.tail is not None:
            tail = tail.masked_fill(allowed.tail, -math.inf)
        peak = torch.maximum(peak, tail.amax(-1))
    return groups.numpy(), peak


def _candidates(rows: Rows, groups: Numbers, allowed: AllowedIds) -> list[Ids] | None:
    """Return the tokens of each row that may pass; None where a row may have many.

    They are those of top-k, the last one last, or at least those of min-p.
    """
    banned = allowed.mask.view(-1).numpy() if allowed.suppressed.stretches else None
    k, lowest = rows.filters.top_k, None
    if k is None:
        lowest = _lowest(rows)
    found: list[Ids] = []
    for i, (row, most) in enumerate(zip(rows.logits.numpy(), groups, strict=True)):
        if lowest is None:
            assert k is not None
            near = filters_cpu.groups_of_largest(most, k)
            if near is None:
                return None
        else:
            near = np.flatnonzero(most >= lowest[i])
            if len(near) > len(most) // 8:
                return None
        ids = filters_cpu.ids_of(near, len(row))
        x = row[ids]
        if banned is not None:
            x[banned[ids]] = -math.inf
        if lowest is None:
            assert k is not None
            found.append(filters_cpu.first(ids, x, k))
        else:
            found.append(ids[x >= lowest[i]])
    return found


def _lowest(rows: Rows) -> Numbers:
    """Return a bound below the logits that min-p lets pass, [r]."""
    assert rows.filters.min_p is not None
    temperature = rows.temperature
    each = temperature.numpy() if isinstance(temperature, Tensor) else temperature
    peak = rows.peak.numpy()
    depth = (_SLACK - math.log(rows.filters.min_p)) * each
    rounding = 8 * float(np.finfo(peak.dtype).eps) * np.maximum(np.abs(peak), depth)
    return (peak - depth - rounding).astype(peak.dtype)


def weights_of(rows: Rows, ids: list[Ids]) -> list[Numbers]:
    """Return the weights of some tokens of each row."""
    logits, sizes = rows.logits, [len(own) for own in ids]
    row = np.repeat(np.arange(len(ids)), sizes)
    flat, size = np.concatenate(ids), len(row)
    room = torch.zeros(-(-size // _VECTOR) * _VECTOR, dtype=logits.dtype)
    room[:size] = torch.from_numpy(logits.numpy()[row, flat] - rows.peak.numpy()[row])
    inverse = inverse_temperature(rows.temperature, logits.dtype, times=LOG2E)
    room[:size].mul_(inverse[torch.from_numpy(row), 0] if isinstance(inverse, Tensor) else inverse)
    weight = room.exp2_()[:size].numpy()
    ragged = logits.shape[1] % _VECTOR
    first = logits.shape[1] - ragged
    for place in np.flatnonzero(flat >= first):
        i = int(row[place])
        each = inverse[i] if isinstance(inverse, Tensor) else inverse
        end = (logits[i, first:] - rows.peak[i]).mul_(each).exp2_()
        weight[place] = end[int(flat[place]) - first]
    return np.split(weight, np.cumsum(sizes)[:-1])


def _passing(rows: Rows, ids: list[Ids], weights: list[Numbers]) -> list[Ids]:
    """Return which of the tokens of each row pass, the last one last."""
    inverse = inverse_temperature(rows.temperature, rows.logits.dtype)
    found: list[Ids] = []
    for i, (own, weight) in enumerate(zip(ids, weights, strict=True)):
        order = np.argsort(own)
        seen = Seen(
            torch.from_numpy(rows.logits[i].numpy()[own[order]])[None],
            torch.from_numpy(weight[order])[None],
            rows.peak[i : i + 1],
            inverse[i : i + 1] if isinstance(inverse, Tensor) else inverse,
            BINS,
            PER_NAT,
        )
        found.append(order[filters_cpu.passing(seen, rows.filters)])
    return found


def _tile_sums(ids: list[Ids], weights: list[Numbers], tiles: int) -> Tensor:
    """Return the sums of the weights in each tile of each row, [r, tiles]."""
    flat, weight = np.concatenate(ids), np.concatenate(weights)
    row = np.repeat(np.arange(len(ids)), [len(own) for own in ids])
    touched, which = np.unique(row * tiles + flat // TILE, return_inverse=True)
    room = np.zeros((len(touched), TILE), weight.dtype)
    room[which, flat % TILE] = weight
    sums = torch.zeros(len(ids) * tiles, dtype=torch.from_numpy(weight).dtype)
    sums[torch.from_numpy(touched)] = torch.from_numpy(room).sum(-1)
    return sums.view(len(ids), tiles)

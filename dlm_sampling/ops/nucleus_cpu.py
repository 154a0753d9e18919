"""Find where top-p ends in rows of logits, on a CPU.

The weights are added up in the bins of `ops.filters`, in the order of the ids, so that the token at
the boundary is the same.  After that only the bin that top-p ends in is looked at, and of many
tokens in it a part: weights of one bin are so alike that float64 adds them up without rounding, in
any order.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dlm_sampling.ops.scratch import Scratch
from dlm_sampling.types import Crossing

Numbers = NDArray[Any]  # float32 or float64
Ids = NDArray[np.int64]  # and bins, which may be int32
Flags = NDArray[np.bool_]

_MANY = 256  # tokens of a bin that are sorted without a look at its parts
_PARTS = 256
_SLACK = 1e-12  # of the mass; more than the order of its terms changes a float64 sum
_LARGEST = 1e30
_LONG = 1 << 14  # from this vocabulary on a call for each row costs less than longer places


class Seen(NamedTuple):
    """Hold the tokens of some rows that top-p looks at; no other token has a weight."""

    logits: Tensor  # [r, n]
    weight: Tensor  # [r, n]
    peak: Tensor  # [r]
    inverse: float | Tensor  # 1 / temperature, one number or [r, 1]
    bins: int
    per_nat: float  # bins per unit of (peak - logit) / temperature


class Nucleus(NamedTuple):
    """Hold the tokens that top-p keeps in each row, which are one at least."""

    logit: Numbers  # [r], of the last one
    last_id: Ids  # [r]
    single: Flags  # [r], whether it is the only one
    floors: list[float]  # a weight for each row; those above it are kept, but for these tokens:
    row: Ids
    ids: Ids
    weight: Numbers  # that they have in the end
    unsure: Flags  # [r], whether the rounding of a sum decides; only of a vocabulary of one bin

    def cut(self, weight: Tensor) -> None:
        """Set the weights [r, n] of the tokens that are not kept to 0."""
        for own, floor in zip(weight, self.floors, strict=True):
            torch.threshold_(own, floor, 0.0)
        weight.numpy()[self.row, self.ids] = self.weight


def nucleus(
    seen: Seen,
    top_p: float,
    crossing: Crossing,
    scratch: Scratch | None = None,
    *,
    one_bin: bool = False,
) -> Nucleus:
    """Find the tokens that top-p keeps.

    Args:
        seen: the tokens.
        top_p: < 1.
        crossing: rule for the token that crosses the mass.
        scratch: lends buffers of n columns; None: new memory.
        one_bin: whether `ops.filters` has all tokens in one bin; any bins will do then.
    """
    x, w, rows = seen.logits.numpy(), seen.weight.numpy(), np.arange(len(seen.logits))
    place = _places(seen, scratch)
    reached = _masses(seen, place, torch.float64 if one_bin else seen.weight.dtype)
    total = reached[:, -1]
    if one_bin:  # what is reached has the rounding of one sum over all
        total = in_turn(w)
        reached += (total - reached[:, -1])[:, None]
    limit, slack = top_p * total, _SLACK * total
    last = (reached > limit[:, None]).argmax(1)
    end, bins = reached[rows, last], place.numpy()
    inside = _members(bins, last, scratch)
    # Rounding moves no weight past the middle of a neighbouring bin.
    floors = np.exp((last + 0.5) / -seen.per_nat).tolist()
    prior, others, parts = np.zeros(len(x)), np.zeros(len(x)), dict[int, _Part]()
    for i in [i for i, ids in enumerate(inside) if len(ids) > _MANY]:
        if last[i] < seen.bins - 1:  # the weights of the last bin may be of any size
            part = _part(x[i], w[i], inside[i], floors[i], (end[i], limit[i], slack[i]))
            parts[i] = part
            inside[i], prior[i], others[i] = part.ids, part.prior, part.others
    sizes = np.array([len(ids) for ids in inside])
    starts, row, ids = sizes.cumsum() - sizes, np.repeat(rows, sizes), np.concatenate(inside)
    order = np.lexsort((-x[row, ids], row))
    ids, rank = ids[order], np.arange(len(row)) - starts[row]
    own = w[row, ids].astype(np.float64)
    weights = np.zeros((len(x), int(sizes.max())))
    weights[row, rank] = own
    start = end - (weights.sum(1) + others)
    so_far = start[:, None] + (prior[:, None] + weights.cumsum(1))
    # Tokens without weight are the last in the order.
    fits = fitting(so_far, weights, limit[:, None], crossing) & (weights > 0.0)
    count = fits.sum(1)
    single = (last == 0) & (count < 2)
    for i, part in parts.items():
        single[i] &= not len(part.before)
    count[single] = 1
    last_id = ids[starts + count - 1]
    for i in np.flatnonzero(count == 0).tolist():  # it is in another part, or in another bin
        before = [parts[i].before] if i in parts else []
        head = np.concatenate((np.flatnonzero(bins[i] < last[i]), *before))
        logits = x[i][head]
        last_id[i], single[i] = head[logits == logits.min()].max(), len(head) == 1
    own[rank >= count[row]] = 0.0
    unsure = np.zeros(len(x), bool)
    if one_bin:
        near = (np.abs(so_far - limit[:, None]) <= slack[:, None]) & (weights > 0.0)
        unsure = near.any(1) | (np.abs(start + prior - limit) <= slack)
    for i, part in parts.items():
        floors[i] = part.floor
        row = np.concatenate((row, np.full(len(part.moved), i)))
        ids, own = np.concatenate((ids, part.moved)), np.concatenate((own, part.weight))
    return Nucleus(x[rows, last_id], last_id, single, floors, row, ids, own, unsure)


def fitting(reached: Numbers, inside: Numbers, limit: Numbers, crossing: Crossing) -> Flags:
    """Return which tokens are before the limit; `filters` says what the crossing is."""
    return reached - inside < limit if crossing == "include" else reached <= limit


def in_turn(w: Numbers) -> Numbers:
    """Return the sums of weights [r, n], one addition after the other, as float64 [r]."""
    return np.add.accumulate(w, axis=1)[:, -1].astype(np.float64)


def _places(seen: Seen, scratch: Scratch | None) -> Tensor:
    """Return the bins of the tokens, whole numbers [r, n]."""
    logits, peak = seen.logits, seen.peak[:, None]
    width, gap = seen.per_nat * seen.inverse, None
    if scratch is not None:
        gap = scratch.rows("gap", logits.shape[0], logits.shape[1], logits.dtype)
    if isinstance(width, float) and math.frexp(width)[0] == 0.5 and _small(peak):
        # A power of 2 changes no digit, so that it does not matter when it is multiplied by.
        gap = torch.sub(peak * width, logits, alpha=width, out=gap)
    else:
        gap = torch.sub(peak, logits, out=gap).mul_(width)
    kind = torch.int64 if gap.dtype == torch.float64 else torch.int32
    return gap.view(kind).copy_(gap.clamp_max_(seen.bins - 1))  # in the same memory


def _small(peak: Tensor) -> bool:
    """Return whether no multiple of these that `_places` makes overflows."""
    return float(np.abs(peak.numpy()).max()) < _LARGEST


def _masses(seen: Seen, place: Tensor, dtype: torch.dtype) -> Numbers:
    """Return the weight up to each bin, of sums of a dtype in the order of the ids, [r, bins]."""
    if place.shape[1] >= _LONG:
        each = zip(place, seen.weight, strict=True)
        mass = torch.stack([torch.bincount(bins, own, seen.bins) for bins, own in each])
    else:
        mass = torch.zeros(len(place), seen.bins, dtype=dtype)
        mass.scatter_add_(1, place.long(), seen.weight.to(dtype))
    return mass.cumsum(1, dtype=torch.float64).numpy()


def _members(bins: Ids, last: Ids, scratch: Scratch | None) -> list[Ids]:
    """Return the tokens of one bin of each row."""
    count, size = len(bins), int(bins.shape[1])
    out = None if scratch is None else scratch.rows("member", count, size, torch.bool).numpy()
    flat = np.flatnonzero(np.equal(bins, last.astype(bins.dtype)[:, None], out=out))
    ends = np.searchsorted(flat, np.arange(size, size * count + 1, size)).tolist()
    starts = [0, *ends[:-1]]
    return [flat[a:b] - i * size for i, (a, b) in enumerate(zip(starts, ends, strict=True))]


class _Part(NamedTuple):
    """Hold the tokens of a bin among which top-p ends."""

    ids: Ids  # ascending
    prior: float  # weight of the tokens of the bin before these
    others: float  # weight of all others of the bin
    before: Ids
    floor: float  # a weight in the bin; of the others those above it are kept, but for some
    moved: Ids  # of those
    weight: Numbers  # that they have in the end


def _part(
    x: Numbers, w: Numbers, ids: Ids, floor: float, masses: tuple[float, float, float]
) -> _Part:
    """Return the tokens of a bin of one row among which top-p ends.

    Args:
        x: [n], logits.
        w: [n], weights.
        ids: of the bin.
        floor: the weight in the middle of the bin.
        masses: that is reached with the bin, where top-p ends, and what a sum may be off.
    """
    own, weights, (end, limit, slack) = x[ids], w[ids].astype(np.float64), masses
    largest, least = own.max(), own.min()
    steps = _PARTS / max(float(largest) - float(least), 1e-30)
    place = ((largest - own) * steps).astype(np.int64)
    reached = np.bincount(place, weights).cumsum()
    reached += end - reached[-1]
    first, last = np.searchsorted(reached, (limit - slack, limit + slack), "right")
    before, after = place < first, place > last
    among = ~(before | after)
    prior = float(weights[before].sum())
    others = prior + float(weights[after].sum())
    floor = min(max(float(weights[among].mean()), floor * 0.99), floor * 1.01)
    moved = ~among & ((weights > floor) != before)
    wanted = np.where(before, weights, 0.0)[moved]
    return _Part(ids[among], prior, others, ids[before], floor, ids[moved], wanted)

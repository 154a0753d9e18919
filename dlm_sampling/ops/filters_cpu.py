"""Apply top-k, top-p and min-p on the CPU with NumPy: the boundaries of `ops.filters`.

NumPy compares, selects and counts with vector instructions where torch goes number by number.  Of a
large vocabulary top-k reads the few runs with the largest logits; top-p adds the weights up in the
bins of `ops.filters`, in the order of the ids, so that both find the same token at the boundary.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dlm_sampling.ops.vocabulary import RUN
from dlm_sampling.types import Crossing, TokenLaw

Numbers = NDArray[Any]  # float32 or float64
Ids = NDArray[np.int64]

SMALL = 1024
"""A vocabulary of no more tokens is sorted; it is one bin."""

_MANY_RUNS = 256  # so many runs make their maxima worth a pass
_MORE_RUNS = 64  # runs looked at beyond those that top-k needs, for tokens of equal logits


class Edges(NamedTuple):
    """Hold the last token that passes the filters in each row; arrays [r]."""

    logit: Numbers
    last_id: Ids
    size: Ids


def truncate(
    weight: Tensor, logits: Tensor, peak: Tensor, law: TokenLaw, inverse: float | Tensor, bins: int,
    per_nat: float,
) -> Edges:  # fmt: skip
    """Set the weight of every token that does not pass to 0, in place; see `filters.truncate`.

    Args:
        weight: [r, V].
        logits: [r, V].
        peak: [r].
        law: the filters.
        inverse: 1 / temperature, one number or [r, 1].
        bins: of a vocabulary larger than `SMALL`.
        per_nat: bins per unit of (peak - logit) / temperature.
    """
    lawful = np.isfinite(peak.numpy())
    if not lawful.all():  # the others are refused later, or mean nothing
        size = np.ones(len(lawful), np.int64)
        edges = Edges(peak.numpy().copy(), size - 1, size)
        if lawful.any():
            some = torch.from_numpy(np.flatnonzero(lawful))
            part, each = weight[some], inverse[some] if isinstance(inverse, Tensor) else inverse
            found = truncate(part, logits[some], peak[some], law, each, bins, per_nat)
            weight[some] = part
            for values, those in zip(edges, found, strict=True):
                values[lawful] = those
        return edges
    x, w = logits.numpy(), weight.numpy()
    top_p = None if law.top_p is None or law.top_p >= 1.0 else law.top_p
    if law.top_k is not None and top_p is None and law.min_p is None:
        found = _few(weight, logits, law.top_k)
        if found is not None:
            return found
    elif x.shape[1] <= SMALL:
        return _sorted(x, weight, law, top_p)
    count = np.count_nonzero(w > 0.0, axis=1)
    if law.top_k is not None:
        count = np.minimum(count, law.top_k)
    members: list[_Bin | None] = [None] * len(x)
    if top_p is not None:
        if law.top_k is not None:
            _cut(x, w, np.maximum(count, 1), members)
        place = _bins(logits, peak, inverse, bins, per_nat)
        members = [
            _nucleus(x[i], weight[i], place[i], bins, top_p, law.crossing) for i in range(len(x))
        ]
        count = np.minimum(count, [found.kept for found in members if found is not None])
    if law.min_p is not None:
        count = np.minimum(count, np.count_nonzero(w >= law.min_p, axis=1))
    return _cut(x, w, np.maximum(count, 1), members)


class _Bin(NamedTuple):
    """Hold the bin in which top-p ends, its tokens in order, and how many tokens top-p keeps."""

    above: int  # tokens in the bins before it
    ids: Ids
    logits: Numbers
    kept: int


def _bins(
    logits: Tensor, peak: Tensor, inverse: float | Tensor, bins: int, per_nat: float
) -> Tensor:
    """Return the bin of every token, int32 [r, V]."""
    gap = (peak[:, None] - logits).mul_(per_nat * inverse)
    return gap.clamp_(0, bins - 1).to(torch.int32)


def _nucleus(
    x: Numbers, weight: Tensor, place: Tensor, bins: int, top_p: float, crossing: Crossing
) -> _Bin:
    """Count the tokens of one row that top-p keeps."""
    mass = torch.bincount(place, weight, bins).double().cumsum(-1).numpy()
    limit = top_p * mass[-1]
    last = int((mass > limit).argmax())
    where = place.numpy()
    ids = np.flatnonzero(where == last)
    order = np.argsort(-x[ids], kind="stable")
    ids = ids[order]
    inside = weight.numpy()[ids].astype(np.float64)
    reached = mass[last] - inside.sum() + inside.cumsum()
    above = int(np.count_nonzero(where < last))
    return _Bin(above, ids, x[ids], above + _fitting(reached, inside, limit, crossing))


def _fitting(reached: Any, inside: Any, limit: Any, crossing: Crossing) -> Any:
    """Count the tokens, in order, before the limit; `filters` says what the crossing is."""
    fits = reached - inside < limit if crossing == "include" else reached <= limit
    return np.count_nonzero(fits, axis=-1)


def _cut(x: Numbers, w: Numbers, count: Ids, members: list[_Bin | None]) -> Edges:
    """Keep the first `count` tokens of each row; set the weights of all others to 0."""
    edges, last_ids = np.empty(len(x), x.dtype), np.empty(len(x), np.int64)
    for i, size in enumerate(count):
        row, found = x[i], members[i]
        if found is not None and found.above < size:
            edge = found.logits[size - found.above - 1]
            more = found.above + int(np.count_nonzero(found.logits > edge))
            equal = found.ids[found.logits == edge]
        else:
            edge = np.partition(row, len(row) - size)[len(row) - size]
            more = int(np.count_nonzero(row > edge))
            equal = np.flatnonzero(row == edge)
        np.multiply(w[i], row >= edge, out=w[i])
        w[i, equal[size - more :]] = 0.0
        edges[i], last_ids[i] = edge, equal[min(size - more, len(equal)) - 1]
    return Edges(edges, last_ids, count)


def _few(weight: Tensor, logits: Tensor, k: int) -> Edges | None:
    """Keep the k largest logits, found in the runs of the largest maxima.

    None where other tokens of the k-th logit may lie in further runs, where some of the k tokens
    have no weight, or where the vocabulary has too few runs to gain anything.
    """
    runs, most = logits.shape[1] // RUN, 2 * k + _MORE_RUNS
    if runs < max(_MANY_RUNS, 4 * most):
        return None
    first = logits[:, : runs * RUN].view(-1, runs, RUN)
    best = first.amax(-1).topk(most)
    lanes = torch.arange(RUN)
    near = best.indices[:, :, None].expand(-1, -1, RUN)
    rest = torch.arange(runs * RUN, logits.shape[1]).expand(len(logits), -1)
    x = torch.cat((first.gather(1, near).flatten(1), logits[:, runs * RUN :]), 1)
    largest = x.topk(k)
    edge = largest.values[:, -1:]
    if not (best.values[:, -1].numpy() < edge[:, 0].numpy()).all():
        return None
    ids = torch.cat(((near * RUN + lanes).flatten(1), rest), 1)
    if (np.count_nonzero((x >= edge).numpy(), axis=1) == k).all():
        places = ids.gather(1, largest.indices)
        last = places.masked_fill(largest.values > edge, -1).amax(-1).numpy()
    else:  # of equal logits the lowest ids come first
        rows = zip(ids.numpy(), x.numpy(), edge.numpy(), strict=True)
        kept = [_first(i, row, one[0], k) for i, row, one in rows]
        places = torch.from_numpy(np.stack([found for found, _ in kept]))
        last = np.array([place for _, place in kept], np.int64)
    values = weight.gather(1, places)
    if not (values.numpy() > 0.0).all():
        return None
    weight.zero_().scatter_(1, places, values)
    return Edges(edge[:, 0].numpy(), last, np.full(len(edge), k, np.int64))


def _first(ids: Ids, x: Numbers, edge: Any, k: int) -> tuple[Ids, int]:
    """Return the ids of the k tokens that come first, and the last one of logit `edge`."""
    larger, equal = ids[x > edge], np.sort(ids[x == edge])
    equal = equal[: k - len(larger)]
    return np.concatenate((larger, equal)), int(equal[-1])


def _sorted(x: Numbers, weight: Tensor, law: TokenLaw, top_p: float | None) -> Edges:
    """Truncate rows of a small vocabulary, whose tokens are sorted."""
    w, rows = weight.numpy(), np.arange(len(x))
    rank = torch.arange(x.shape[1]).numpy()
    order = np.argsort(-x, axis=1, kind="stable")
    ranked = np.take_along_axis(w, order, 1)
    count = np.count_nonzero(w > 0.0, axis=1)
    if law.top_k is not None:
        count = np.minimum(count, law.top_k)
    if top_p is not None:
        if law.top_k is not None:
            ranked[rank >= np.maximum(count, 1)[:, None]] = 0.0
            np.put_along_axis(w, order, ranked, 1)
        row = torch.arange(len(x)).repeat_interleave(x.shape[1])
        mass = torch.bincount(row, weight.flatten(), len(x)).double().numpy()[:, None]
        inside = ranked.astype(np.float64)
        reached = mass - inside.sum(1, keepdims=True) + inside.cumsum(1)
        count = np.minimum(count, _fitting(reached, inside, top_p * mass, law.crossing))
    if law.min_p is not None:
        count = np.minimum(count, np.count_nonzero(ranked >= law.min_p, axis=1))
    count = np.maximum(count, 1)
    ranked[rank >= count[:, None]] = 0.0
    np.put_along_axis(w, order, ranked, 1)
    last = order[rows, count - 1]
    return Edges(x[rows, last], last, count)

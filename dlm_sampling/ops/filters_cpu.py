"""Apply top-k, top-p and min-p on the CPU with NumPy: the boundaries of `ops.filters`.

NumPy compares, selects and counts with vector instructions where torch goes number by number.  Of a
large vocabulary top-k reads the few groups with the largest logits; top-p adds the weights up in
the bins of `ops.filters`, in the order of the ids, so that both find the same token at the
boundary.  Those sums, one addition after the other, are most of what top-p costs.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dlm_sampling.ops.scratch import scratch_for
from dlm_sampling.ops.vocabulary import RUN, TILE
from dlm_sampling.types import Crossing, TokenLaw

Numbers = NDArray[Any]  # float32 or float64
Ids = NDArray[np.int64]

SMALL = 1024
"""A vocabulary of no more tokens is sorted; it is one bin."""

_MANY_GROUPS = 256  # so many groups make their maxima worth a pass
_MORE_GROUPS = 64  # groups looked at beyond those that top-k needs, for tokens of equal logits


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
    if x.shape[1] <= SMALL and (top_p is not None or law.min_p is not None):
        return _sorted(x, weight, law, top_p)
    heads = [None] * len(x) if law.top_k is None else _heads(logits, w, law.top_k)
    least = max(law.min_p or 0.0, float(np.finfo(x.dtype).smallest_subnormal))
    edges, last_ids, sizes = np.empty(len(x), x.dtype), *np.empty((2, len(x)), np.int64)
    for i, (row, own, head) in enumerate(zip(x, w, heads, strict=True)):
        size = len(row)
        if law.top_k is not None:
            size = min(law.top_k, int(np.count_nonzero(own > 0.0)))
            if head is None and (top_p is not None or law.min_p is not None):
                _keep(row, own, None, max(size, 1))
        if top_p is not None:
            some = slice(None) if head is None else torch.from_numpy(head)
            each = inverse[i] if isinstance(inverse, Tensor) else inverse
            place = _bins(logits[i][some], peak[i], each, bins, per_nat)
            found = _nucleus(row, weight[i][some], place, bins, top_p, law.crossing, head)
            if found.fits and law.top_k is None and law.min_p is None:
                sizes[i] = len(found.kept)
                edges[i], last_ids[i] = _only(row, own, found.kept)
                continue
            head, size = found.ids, min(size, len(found.kept))
        if law.min_p is not None and head is not None:
            size = min(size, int(np.count_nonzero(own[head] >= least)))
        elif law.min_p is not None:
            head = np.flatnonzero(own >= least)
            size = min(size, len(head))
            if law.top_k is not None or not _is_head(row, head):
                head = None
        sizes[i] = max(size, 1)
        edges[i], last_ids[i] = _keep(row, own, head, int(sizes[i]))
    return Edges(edges, last_ids, sizes)


def _bins(
    logits: Tensor, peak: Tensor, inverse: float | Tensor, bins: int, per_nat: float
) -> Tensor:
    """Return the bin of each of some tokens of a row; the next call overwrites it."""
    scratch = scratch_for(len(logits), logits.device)
    gap = scratch.rows("gap", 1, len(logits), logits.dtype)[0]
    place = scratch.rows("bin", 1, len(logits), torch.int16)[0]
    torch.sub(peak, logits, out=gap).mul_(per_nat * inverse).clamp_(0, bins - 1)
    return place.copy_(gap)


class _Nucleus(NamedTuple):
    """Hold the tokens of one row that top-p keeps."""

    ids: Ids  # ascending, of the bins up to the one that top-p ends in
    kept: Ids  # of them those that are kept, the last one last
    fits: bool  # whether the last bin holds one of them, which then is the last one


def _nucleus(
    x: Numbers,
    weight: Tensor,
    place: Tensor,
    bins: int,
    top_p: float,
    crossing: Crossing,
    among: Ids | None = None,
) -> _Nucleus:
    """Find the tokens of one row that top-p keeps.

    Args:
        x: [V], logits.
        weight: of the tokens `among`, or of all.
        place: their bins.
        bins: number of bins.
        top_p: mass that is kept.
        crossing: see `filters`.
        among: ascending ids, or None for all: no other token has a weight.
    """
    mass = torch.bincount(place, weight, bins).double().cumsum(-1).numpy()
    limit = top_p * mass[-1]
    last = int((mass > limit).argmax())
    where, own = place.numpy(), weight.numpy()
    near = np.flatnonzero(where <= last)
    inside = where[near] == last
    ids = near if among is None else among[near]
    ordered = np.argsort(-x[ids[inside]], kind="stable")
    weights = own[near[inside][ordered]].astype(np.float64)
    reached = mass[last] - weights.sum() + weights.cumsum()
    fits = int(_fitting(reached, weights, limit, crossing))
    # Tokens without weight are the last in the order.
    fits = min(fits, int(np.count_nonzero(weights > 0.0)))
    kept = np.concatenate((ids[~inside], ids[inside][ordered[:fits]]))
    return _Nucleus(ids, kept, fits > 0)


def _fitting(reached: Any, inside: Any, limit: Any, crossing: Crossing) -> Any:
    """Count the tokens, in order, before the limit; `filters` says what the crossing is."""
    fits = reached - inside < limit if crossing == "include" else reached <= limit
    return np.count_nonzero(fits, axis=-1)


def _is_head(x: Numbers, ids: Ids) -> bool:
    """Return whether no other token has a logit as large as one of these."""
    return not len(ids) or np.count_nonzero(x >= x[ids].min()) == len(ids)


def _keep(x: Numbers, w: Numbers, head: Ids | None, size: int) -> tuple[Any, int]:
    """Keep the first `size` tokens of a row, and set the weights of all others to 0.

    Args:
        x: [V], logits.
        w: [V], weights.
        head: ascending ids of the largest logits, at least `size`, or None: they are not known.
        size: >= 1.

    Returns:
        The logit of the last token, and its id.
    """
    if head is not None and len(head) >= size:
        return _only(x, w, _first(head, x[head], size))
    edge = np.partition(x, len(x) - size)[len(x) - size]
    more, equal = int(np.count_nonzero(x > edge)), np.flatnonzero(x == edge)
    np.multiply(w, x >= edge, out=w)
    w[equal[size - more :]] = 0.0
    return edge, int(equal[size - more - 1])


def _only(x: Numbers, w: Numbers, kept: Ids) -> tuple[Any, int]:
    """Set the weights of all other tokens of a row to 0; return the last logit, and its id."""
    own = w[kept]
    w.fill(0.0)
    w[kept] = own
    return x[kept[-1]], int(kept[-1])


def _first(ids: Ids, x: Numbers, size: int) -> Ids:
    """Return the `size` ids that come first; those of the last logit last, ascending."""
    edge = np.partition(x, len(x) - size)[len(x) - size]
    larger, equal = ids[x > edge], np.sort(ids[x == edge])
    return np.concatenate((larger, equal[: size - len(larger)]))


def _heads(logits: Tensor, w: Numbers, k: int) -> list[Ids] | list[None]:
    """Return the ids of the k largest logits of each row, ascending.

    The vocabulary is cut into groups.  As many as k of them have maxima that are no less than the
    k-th largest of the maxima, so that the k-th logit is no less either, and no other group holds a
    token of as large a logit.  None where many groups have that maximum, where some of the k tokens
    have no weight, or where there are too few groups to gain anything.
    """
    tiles, none = logits.shape[1] // TILE, [None] * len(w)
    if tiles * RUN < max(_MANY_GROUPS, 4 * k):
        return none
    # Ids that lie RUN apart in a tile: maxima over those go by vectors.
    cut = logits[:, : tiles * TILE].reshape(len(w), tiles, TILE // RUN, RUN)
    groups: Numbers = cut.amax(2).flatten(1).numpy()
    x, rest = logits.numpy(), np.arange(tiles * TILE, logits.shape[1])
    steps, heads = RUN * np.arange(TILE // RUN), list[Ids]()
    for row, own, most in zip(x, w, groups, strict=True):
        near = np.flatnonzero(most >= np.partition(most, len(most) - k)[len(most) - k])
        if len(near) > 2 * k + _MORE_GROUPS:
            return none
        starts = near // RUN * TILE + near % RUN
        ids = np.concatenate(((starts[:, None] + steps).ravel(), rest))
        head = _first(ids, row[ids], k)
        if not (own[head] > 0.0).all():
            return none
        head.sort()
        heads.append(head)
    return heads


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

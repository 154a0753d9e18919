"""Apply top-k, top-p and min-p on the CPU with NumPy: the boundaries of `ops.filters`.

NumPy compares, selects and counts with vector instructions where torch goes number by number.  Of a
large vocabulary top-k reads the few groups with the largest logits; `ops.nucleus_cpu` has top-p.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dlm_sampling.ops.nucleus_cpu import (
    Flags,
    Ids,
    Numbers,
    Seen,
    fitting,
    in_turn,
    nucleus,
)
from dlm_sampling.ops.scratch import scratch_for
from dlm_sampling.ops.sources import tiles_of
from dlm_sampling.ops.vocabulary import RUN, TILE
from dlm_sampling.types import TokenLaw

SMALL = 1024
"""A vocabulary of no more tokens is sorted; it is one bin."""

_SORTED = 128  # so few tokens are sorted for top-p too
_MANY_GROUPS = 256  # so many groups make their maxima worth a pass
_MORE_GROUPS = 64  # groups looked at beyond those that top-k needs, for tokens of equal logits


class Edges(NamedTuple):
    """Hold the last token that passes the filters in each row; arrays [r]."""

    logit: Numbers
    last_id: Ids
    single: Flags  # whether it is the only one


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
        edges = Edges(peak.numpy().copy(), np.zeros(len(lawful), np.int64), ~lawful)
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
    if top_p is not None and law.top_k is None and x.shape[1] > _SORTED:
        return _by_mass(Seen(logits, weight, peak, inverse, bins, per_nat), law, top_p)
    if x.shape[1] <= SMALL and (top_p is not None or law.min_p is not None):
        return _sorted(x, w, law, top_p)
    heads = [None] * len(x) if law.top_k is None else _heads(logits, w, law.top_k)
    least = _least(law, x.dtype)
    edges, last_ids, singles = np.empty(len(x), x.dtype), *np.empty((2, len(x)), np.int64)
    for i, (row, own, head) in enumerate(zip(x, w, heads, strict=True)):
        if law.top_k is None:
            head = np.flatnonzero(own >= least)
            size = max(len(head), 1)
            edges[i], last_ids[i] = _keep(row, own, head if _is_head(row, head) else None, size)
            singles[i] = size < 2
            continue
        if head is None:
            size = max(min(law.top_k, int(np.count_nonzero(own > 0.0))), 1)
            edges[i], last_ids[i] = _keep(row, own, None, size)
            singles[i] = size < 2
            if top_p is None and law.min_p is None:
                continue
            head = np.flatnonzero(own > 0.0)
        kept = first(head, row[head], len(head))
        if top_p is not None or law.min_p is not None:
            chosen = torch.from_numpy(head)
            each = inverse[i : i + 1] if isinstance(inverse, Tensor) else inverse
            seen = Seen(
                logits[i : i + 1, chosen], weight[i : i + 1, chosen], peak[i : i + 1], each, bins,
                per_nat,
            )  # fmt: skip
            kept = head[passing(seen, law)]
        edges[i], last_ids[i], singles[i] = *_only(row, own, kept), len(kept) < 2
    return Edges(edges, last_ids, singles.astype(bool))


def _by_mass(seen: Seen, law: TokenLaw, top_p: float) -> Edges:
    """Truncate rows by top-p, and by min-p after it."""
    vocab = seen.logits.shape[1]
    small, x, w = vocab <= SMALL, seen.logits.numpy(), seen.weight.numpy()
    scratch = scratch_for(vocab, seen.logits.device)
    found = nucleus(seen, top_p, law.crossing, scratch, one_bin=small)
    edges, rows = Edges(*found[:3]), np.flatnonzero(found.unsure)
    exact, those = w[rows], None
    if len(rows):
        those = _sorted(x[rows], exact, law, top_p)
    found.cut(seen.weight)
    if law.min_p is not None:
        least = _least(law, w.dtype)
        for i, (row, own) in enumerate(zip(x, w, strict=True)):
            head = np.flatnonzero(own > 0.0)
            size = max(int(np.count_nonzero(own[head] >= least)), 1)
            edges.logit[i], edges.last_id[i] = _keep(row, own, head, size)
            edges.single[i] = size < 2
    if those is not None:
        w[rows] = exact
        for values, own in zip(edges, those, strict=True):
            values[rows] = own
    return edges


def passing(seen: Seen, law: TokenLaw) -> Ids:
    """Return which of the tokens of a row pass, the last one last.

    Args:
        seen: of one row, in the order of their ids, the tokens that top-k leaves; without it, at
            least those that min-p does.  All have weights above 0.
        law: the filters; without top-k top-p is not read.
    """
    x, weight = seen.logits[0].numpy(), seen.weight[0].numpy()
    ids = np.arange(len(x))
    if law.top_k is not None and law.top_p is not None and law.top_p < 1.0:
        found = nucleus(seen, law.top_p, law.crossing)
        edge, last_id = found.logit[0], found.last_id[0]
        ids = np.flatnonzero((x > edge) | ((x == edge) & (ids <= last_id)))
    size = len(ids)
    if law.min_p is not None:
        size = int(np.count_nonzero(weight[ids] >= _least(law, weight.dtype)))
    return first(ids, x[ids], max(size, 1))


def _least(law: TokenLaw, dtype: Any) -> float:
    """Return the least weight that min-p lets pass."""
    return max(law.min_p or 0.0, float(np.finfo(dtype).smallest_subnormal))


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
        return _only(x, w, first(head, x[head], size))
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


def first(ids: Ids, x: Numbers, size: int) -> Ids:
    """Return the `size` ids that come first; those of the last logit last, ascending."""
    edge = np.partition(x, len(x) - size)[len(x) - size]
    larger, equal = ids[x > edge], np.sort(ids[x == edge])
    return np.concatenate((larger, equal[: size - len(larger)]))


def _heads(logits: Tensor, w: Numbers, k: int) -> list[Ids] | list[None]:
    """Return the ids of the k largest logits of each row, ascending.

    None where many groups may hold them, where some of the k tokens have no weight, or where there
    are too few groups to gain anything.
    """
    none = [None] * len(w)
    if not has_groups(logits.shape[1], k):
        return none
    x, heads = logits.numpy(), list[Ids]()
    for row, own, most in zip(x, w, group_maxima(logits).numpy(), strict=True):
        near = groups_of_largest(most, k)
        if near is None:
            return none
        ids = ids_of(near, len(row))
        head = first(ids, row[ids], k)
        if not (own[head] > 0.0).all():
            return none
        head.sort()
        heads.append(head)
    return heads


def has_groups(vocab: int, k: int = 0) -> bool:
    """Return whether so many groups have a maximum that the k largest logits are found by them."""
    return vocab // TILE * RUN >= max(_MANY_GROUPS, 4 * k)


def group_maxima(logits: Tensor) -> Tensor:
    """Return the largest logit of each group of the whole tiles of logits [r, V], [r, groups].

    A group is the 32 ids of a tile that lie RUN apart: their maxima go by vectors.
    """
    return maxima_of(tiles_of(logits)).flatten(1)


def maxima_of(tiles: Tensor) -> Tensor:
    """Return the largest logit of each group of tiles [r, t, TILE], [r, t, RUN]."""
    return tiles.view(*tiles.shape[:2], TILE // RUN, RUN).amax(2)


def groups_of_largest(most: Numbers, k: int) -> Ids | None:
    """Return the groups with these maxima that hold the k largest logits; None if they are many.

    As many as k groups have maxima that are no less than the k-th largest of the maxima, so that
    the k-th logit is no less either, and no other group holds a token of as large a logit.
    """
    near = np.flatnonzero(most >= np.partition(most, len(most) - k)[len(most) - k])
    return near if len(near) <= 2 * k + _MORE_GROUPS else None


def ids_of(groups: Ids, vocab: int) -> Ids:
    """Return the ids of some groups, and those beyond the whole tiles, in any order."""
    starts = groups // RUN * TILE + groups % RUN
    steps = RUN * np.arange(TILE // RUN)
    return np.concatenate(
        ((starts[:, None] + steps).ravel(), np.arange(vocab // TILE * TILE, vocab))
    )


def _sorted(x: Numbers, w: Numbers, law: TokenLaw, top_p: float | None) -> Edges:
    """Truncate rows of a small vocabulary, whose tokens are sorted."""
    rows = np.arange(len(x))
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
        mass = in_turn(w)[:, None]
        inside = ranked.astype(np.float64)
        reached = mass - inside.sum(1, keepdims=True) + inside.cumsum(1)
        fits = fitting(reached, inside, top_p * mass, law.crossing)
        count = np.minimum(count, np.count_nonzero(fits, axis=1))
    if law.min_p is not None:
        count = np.minimum(count, np.count_nonzero(ranked >= law.min_p, axis=1))
    count = np.maximum(count, 1)
    ranked[rank >= count[:, None]] = 0.0
    np.put_along_axis(w, order, ranked, 1)
    last = order[rows, count - 1]
    return Edges(x[rows, last], last, count < 2)

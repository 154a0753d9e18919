"""Apply top-k, top-p and min-p, exact at their boundaries.

Each keeps a head of the tokens in the order (logit descending, id ascending), so each is one
number, how many tokens are kept, and one boundary token.  The boundary is found without sorting the
vocabulary: a histogram of the logits says which narrow bin holds it, and only that bin is sorted.

Top-k: Fan, Lewis and Dauphin 2018; top-p: Holtzman et al. 2019; min-p: Nguyen et al. 2024.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dlm_sampling.ops import filters_cpu
from dlm_sampling.types import Crossing, TokenLaw

BINS = 1024
"""Bins of a row; a vocabulary of no more tokens than that is one bin."""

PER_NAT = 32.0
"""Bins per unit of (peak - logit) / temperature; the last bin holds the rest."""


class Boundary(NamedTuple):
    """Hold the last token that passes the filters; tensors [r]."""

    logit: Tensor
    last_id: Tensor  # int64, largest id kept among those with exactly this logit
    single: Tensor  # bool, whether it is the only token kept

    def keeps(self, logits: Tensor, ids: Tensor) -> Tensor:
        """Return which of `logits` [r, n] of the tokens `ids` (int64, [n] or [r, n]) are kept."""
        edge = self.logit[:, None]
        return (logits > edge) | ((logits == edge) & (ids <= self.last_id[:, None]))


def truncate(
    weight: Tensor, logits: Tensor, peak: Tensor, law: TokenLaw, inverse: float | Tensor
) -> Boundary:
    """Set the weight of every token that does not pass the filters to 0, in place.

    Args:
        weight: [r, V], exp((logits - peak) / temperature).
        logits: [r, V]; suppressed ids hold -inf.
        peak: [r], the largest logit of each row.
        law: top_k, top_p, min_p and crossing are read.
        inverse: 1 / temperature, one number or [r, 1].

    Returns:
        The boundary of the tokens that pass; at least one does.
    """
    if logits.is_cpu:
        edges = filters_cpu.truncate(weight, logits, peak, law, inverse, BINS, PER_NAT)
        return Boundary(*(torch.from_numpy(part) for part in edges))
    return _truncate(weight, logits, peak, law, inverse)


def _truncate(
    weight: Tensor, logits: Tensor, peak: Tensor, law: TokenLaw, inverse: float | Tensor
) -> Boundary:
    """Truncate by operators that run on every device."""
    bins = _Bins(logits, peak, inverse)
    count = (weight > 0.0).sum(-1)
    if law.top_k is not None:
        count = count.clamp(max=law.top_k)
    if law.top_p is not None and law.top_p < 1.0:
        if law.top_k is not None:
            bins.cut(count, weight)
        count = torch.minimum(count, bins.nucleus(weight, law.top_p, law.crossing))
    if law.min_p is not None:
        count = torch.minimum(count, (weight >= law.min_p).sum(-1))
    return bins.cut(count.clamp(min=1), weight)


class _Members(NamedTuple):
    """Hold the tokens of one bin per row in order, [r, n]; -inf and -1 pad."""

    place: Tensor  # int64 [r, 1], which bin
    logits: Tensor
    ids: Tensor


class _Bins:
    """Bin the tokens of each row by the distance of their logit from the peak."""

    def __init__(self, logits: Tensor, peak: Tensor, inverse: float | Tensor) -> None:
        self._logits = logits
        size = BINS if logits.shape[1] > BINS else 1
        rows = torch.arange(logits.shape[0], device=logits.device)
        self._first = rows[:, None] * size
        gap = (peak[:, None] - logits).mul_(PER_NAT * inverse)
        # A row without a law may hold NaN here, and is refused later.
        self._bin = gap.nan_to_num_(nan=size).clamp_(0, size - 1).to(torch.int64)
        self._bin += self._first
        counts = torch.bincount(self._bin.flatten(), minlength=logits.shape[0] * size)
        self._counts = counts.view(-1, size).cumsum(-1)
        self._latest: _Members | None = None

    def nucleus(self, weight: Tensor, top_p: float, crossing: Crossing) -> Tensor:
        """Count the tokens of positive weight that top-p keeps, int64 [r]."""
        mass = torch.bincount(self._bin.flatten(), weight.flatten(), self._counts.numel())
        mass = mass.double().view_as(self._counts).cumsum(-1)
        limit = top_p * mass[:, -1:]
        place = (mass > limit).to(torch.uint8).argmax(-1, keepdim=True)
        ids = self._members(place).ids
        inside = weight.gather(1, ids.clamp(min=0)).double().masked_fill_(ids < 0, 0.0)
        reached = mass.gather(1, place) - inside.sum(-1, keepdim=True) + inside.cumsum(-1)
        # "include" keeps a token while those before it fall short of the limit, "exclude" while
        # those up to it do not exceed it; they agree where a head holds exactly the limit.
        fits = reached - inside < limit if crossing == "include" else reached <= limit
        return self._above(place) + (fits & (ids >= 0)).sum(-1)

    def cut(self, count: Tensor, weight: Tensor) -> Boundary:
        """Keep the first `count` tokens (int64 [r], >= 1): set the weights of all others to 0."""
        place = (self._counts >= count[:, None]).to(torch.uint8).argmax(-1, keepdim=True)
        found = self._members(place)
        rank = (count - self._above(place) - 1)[:, None]
        edge = found.logits.gather(1, rank)
        weight.masked_fill_(self._logits < edge, 0.0)
        order = torch.arange(found.ids.shape[1], device=edge.device)
        row, late = ((found.logits == edge) & (order > rank)).nonzero(as_tuple=True)
        weight[row, found.ids[row, late]] = 0.0
        return Boundary(edge[:, 0], found.ids.gather(1, rank)[:, 0], count < 2)

    def _above(self, place: Tensor) -> Tensor:
        """Count the tokens in the bins before `place` [r, 1], int64 [r]."""
        before = self._counts.gather(1, (place - 1).clamp(min=0)) * (place > 0)
        return before[:, 0]

    def _members(self, place: Tensor) -> _Members:
        if self._latest is not None and torch.equal(self._latest.place, place):
            return self._latest
        if self._counts.shape[1] == 1:  # one bin holds all tokens
            self._latest = _Members(
                place, *torch.sort(self._logits, dim=-1, descending=True, stable=True)
            )
            return self._latest
        row, column = (self._bin == place + self._first).nonzero(as_tuple=True)
        found = self._logits[row, column]
        # Stable sorts: by logit, then by row; equal logits stay in the order of their ids.
        order = found.sort(descending=True, stable=True).indices
        order = order[row[order].sort(stable=True).indices]
        sizes = torch.bincount(row, minlength=place.shape[0])
        rank = torch.arange(row.shape[0], device=row.device) - (sizes.cumsum(0) - sizes)[row]
        logits = found.new_full((place.shape[0], int(sizes.max())), -torch.inf)
        ids = torch.full_like(logits, -1, dtype=torch.int64)
        logits[row, rank] = found[order]
        ids[row, rank] = column[order]
        self._latest = _Members(place, logits, ids)
        return self._latest

"""Choose the masks of a likelihood bound, and the weight of each mask.

    log p(x) >= sum over subsets S of w(S) sum over i in S of log p(x_i | x outside S),
    w(S) = 1 / (|S| C(C, |S|)),   C positions

A plan has n masks and weights per row.  The mean over its masks of weight times inner sum equals
the bound, exactly or in expectation.

Ou et al. 2024, "Your Absorbing Discrete Diffusion Secretly Models the Conditional Distributions of
Clean Data", arXiv:2406.03736; Nie et al. 2025, arXiv:2502.09992, eq. 14 ("count"); Gong et al.
2025, "DiffuCoder", arXiv:2506.20639 ("coupled").
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from dlm_sampling.ops import Rng, Stream

LONGEST_ENUMERATION = 12
"""Maximum positions of a row for "enumerate", which takes 2 ** 12 - 1 = 4095 passes."""

_LEVEL, _OFFSET = 0, 1  # numbers of the random draws of a row


@dataclass(frozen=True)
class MaskPlan:
    """Hold masks and weights to score texts with; two models may share a plan.

    Fields:
        masks: bool [n, B, L], True at masked positions.
        weights: float64 [n, B]; a row's value is the mean over n of the weight times the sum of
            log-probabilities at masked positions.
    """

    masks: Tensor
    weights: Tensor


@dataclass(frozen=True)
class Places:
    """Hold the positions to score in each row, and the random numbers of the row.

    Fields:
        editable: bool [B, L], the positions to score.
        rng: random numbers of the rows; mask k uses those of step k.
    """

    editable: Tensor
    rng: Rng

    @property
    def count(self) -> Tensor:
        """Return the number of positions to score, C, int64 [B]."""
        return self.editable.sum(1)

    @property
    def number(self) -> Tensor:
        """Return the index of each position among the row's positions to score, int64 [B, L]."""
        return self.editable.long().cumsum(1) - 1

    def at(self, k: int) -> Rng:
        """Return the random numbers of mask k."""
        return self.rng.with_step(torch.full_like(self.rng.step, k))

    def level(self, k: int, which: int = _LEVEL) -> Tensor:
        """Draw a uniform number per row, float64 [B]."""
        return self.at(k).uniform(Stream.MASK, self.rng.keys, which)

    def share(self, k: int, t: Tensor) -> Tensor:
        """Draw a mask that holds each position with probability t [B], bool [B, L]."""
        return self.editable & (self.at(k).uniform(Stream.MASK, self.editable) < t.unsqueeze(1))

    def subset(self, k: int, size: Tensor) -> Tensor:
        """Draw a uniform subset of `size` (int64 [B]) positions, bool [B, L]."""
        u = self.at(k).uniform(Stream.MASK, self.editable).masked_fill(~self.editable, 2.0)
        rank = u.argsort(1).argsort(1)
        return self.editable & (rank < size.unsqueeze(1))


def count(places: Places, n: int) -> MaskPlan:
    """Mask uniform subsets of l positions, l uniform on 1..C, with weight C / l."""
    sizes = [one_to(places.count, places.level(k)) for k in range(n)]
    return _subsets(places, sizes)


def stratified(places: Places, n: int) -> MaskPlan:
    """Mask as `count` does, with systematic sizes l_j.

        l_j = (k - 1 + floor(j C / n)) mod C + 1,   k uniform on 1..C

    Each l_j is uniform on 1..C for every n.
    """
    total = places.count
    first = one_to(total, places.level(0, _OFFSET)) - 1
    sizes = [(first + j * total // n) % total.clamp_min(1) + 1 for j in range(n)]
    return _subsets(places, sizes)


def bernoulli(places: Places, n: int) -> MaskPlan:
    """Mask each position with probability t, t uniform on (0, 1), with weight 1 / t."""
    levels = torch.stack([places.level(k) for k in range(n)])
    masks = [places.share(k, t) for k, t in enumerate(levels)]
    return MaskPlan(torch.stack(masks), 1.0 / levels)


def coupled(places: Places, n: int) -> MaskPlan:
    """Mask with pairs of a `bernoulli` mask and its complement, weights 1 / t and 1 / (1 - t).

    Raises:
        ValueError: n is odd.
    """
    if n % 2:
        raise ValueError(f"n={n}: the masks of scheme 'coupled' come in pairs, so n must be even.")
    levels = torch.stack([places.level(k) for k in range(n // 2)])
    masks = torch.stack([places.share(k, t) for k, t in enumerate(levels)])
    both = torch.stack([masks, places.editable & ~masks], 1)
    weights = torch.stack([1.0 / levels, 1.0 / (1.0 - levels)], 1)
    return MaskPlan(both.flatten(0, 1), weights.flatten(0, 1))


def mean_field(places: Places, n: int) -> MaskPlan:
    """Mask all positions at once: not a bound, but the log-probability of a one-step sampler."""
    return MaskPlan(places.editable.unsqueeze(0), torch.ones_like(places.count).double()[None])


def leave_one_out(places: Places, n: int) -> MaskPlan:
    """Mask one position at a time: not a bound, but the pseudo-log-likelihood."""
    total, number = places.count, places.number
    n = int(total.max()) if total.numel() else 0
    masks = [places.editable & (number == k) for k in range(n)]
    weights = [(k < total).double() * n for k in range(n)]
    return _stack(places, masks, weights)


def all_subsets(places: Places, n: int) -> MaskPlan:
    """Mask every subset once, which gives the bound exactly.

    Raises:
        ValueError: a row has more than `LONGEST_ENUMERATION` positions.
    """
    total, number = places.count, places.number
    most = int(total.max()) if total.numel() else 0
    if most > LONGEST_ENUMERATION:
        raise ValueError(
            f"scheme='enumerate': a row has {most} positions, whose subsets take 2 ** {most} - 1 "
            f"passes; allowed are at most {LONGEST_ENUMERATION}. Use 'count'."
        )
    n = 2**most - 1
    worth = torch.tensor(
        [[n / (s * math.comb(c, s)) if 0 < s <= c else 0.0 for s in range(most + 1)]
         for c in range(most + 1)], dtype=torch.float64, device=total.device,
    )  # fmt: skip
    masks: list[Tensor] = []
    for code in range(1, n + 1):  # bit i says whether the i-th position is in the subset
        own = (2**total > code).unsqueeze(1)  # a row of few positions has few subsets
        masks.append(places.editable & own & ((code >> number.clamp_min(0)) & 1).bool())
    return _stack(places, masks, [worth[total, mask.sum(1)] for mask in masks])


@dataclass(frozen=True)
class Scheme:
    """Describe one rule that chooses masks.

    Fields:
        plan: makes the masks of all rows.
        drawn: whether the masks are random, n per row; else their number follows from the rows.
    """

    plan: Callable[[Places, int], MaskPlan]
    drawn: bool = True


SCHEMES: Mapping[str, Scheme] = MappingProxyType(
    {
        "count": Scheme(count),
        "stratified": Scheme(stratified),
        "bernoulli": Scheme(bernoulli),
        "coupled": Scheme(coupled),
        "mean_field": Scheme(mean_field, drawn=False),
        "leave_one_out": Scheme(leave_one_out, drawn=False),
        "enumerate": Scheme(all_subsets, drawn=False),
    }
)


def one_to(total: Tensor, u: Tensor) -> Tensor:
    """Turn u uniform on [0, 1) into a number uniform on 1..total, int64 [B]; 1 where total is 0."""
    return (u * total).floor().long().clamp(max=(total - 1).clamp_min(0)) + 1


def _subsets(places: Places, sizes: list[Tensor]) -> MaskPlan:
    """Return a plan with one uniform subset per size l, weight C / l."""
    masks = [places.subset(k, size) for k, size in enumerate(sizes)]
    return MaskPlan(torch.stack(masks), torch.stack([places.count / s.double() for s in sizes]))


def _stack(places: Places, masks: list[Tensor], weights: list[Tensor]) -> MaskPlan:
    """Stack masks and weights into a plan, which may have no mask."""
    if masks:
        return MaskPlan(torch.stack(masks), torch.stack(weights))
    none = places.editable.unsqueeze(0)[:0]
    return MaskPlan(none, none.sum(2).double())

"""Find the tokens of one row that top-p keeps, on a CPU with NumPy.

The weights are added up in the bins of `ops.filters`, in the order of the ids, so that the token at
the boundary is the same.  Those sums, one addition after the other, are most of what top-p costs in
a flat law; in a peaked one they are made for the few tokens that hold nearly all of the mass.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dlm_sampling.ops.scratch import Scratch, scratch_for
from dlm_sampling.types import Crossing

Numbers = NDArray[Any]  # float32 or float64
Ids = NDArray[np.int64]

# Where top-p looks at few tokens: those but for a share of the mass, as a sample of the row has it.
_LARGE = 1 << 13  # vocabularies from this size on
_APART, _STRETCH = 4096, 32  # the sample is a stretch of columns in every so many
_FEW = 1 / 16  # share of the vocabulary that is few
_FLAT = 0.1  # weight of the others, relative to that of the largest token, that is too much
_REST = 5e-3  # most of the mass that is left out
_LEAST = 1e-13  # least weight of the tokens that are looked at, 30 nats below the largest
_DEPTH = 128  # PyTorch adds a row of any vocabulary up in a tree of fewer additions


class Seen(NamedTuple):
    """Hold the tokens of one row that top-p looks at; no other token has a weight."""

    logits: Tensor  # [n]
    weight: Tensor  # [n]
    peak: Tensor
    inverse: float | Tensor  # 1 / temperature
    bins: int
    per_nat: float  # bins per unit of (peak - logit) / temperature

    def only(self, ids: Ids) -> Seen:
        """Return some of the tokens."""
        chosen = torch.from_numpy(ids)
        return self._replace(logits=self.logits[chosen], weight=self.weight[chosen])

    def places(self, scratch: Scratch | None = None) -> Tensor:
        """Return the bins of the tokens, int32 [n].

        Args:
            scratch: lends buffers of n columns, which the next call overwrites; None: new memory.
        """
        gap = place = None
        if scratch is not None:
            size, dtype = len(self.logits), self.logits.dtype
            gap = scratch.rows("gap", 1, size, dtype)[0]
            place = scratch.rows("bin", 1, size, torch.int32)[0]
        gap = torch.sub(self.peak, self.logits, out=gap).mul_(self.per_nat * self.inverse)
        gap.clamp_(0, self.bins - 1)
        return gap.to(torch.int32) if place is None else place.copy_(gap)

    def masses(self, place: Tensor) -> Numbers:
        """Return the weight of the tokens up to each bin, float64 [bins].

        Args:
            place: bins of the tokens.
        """
        return torch.bincount(place, self.weight, self.bins).numpy().cumsum(dtype=np.float64)


class Nucleus(NamedTuple):
    """Hold where top-p ends among the tokens that it looks at."""

    among: Ids | None  # ascending places of those tokens that are listed; None: of all of them
    bin: Ids  # of each token
    last: int  # the bin that it ends in
    inside: Ids  # which of the listed tokens are in that bin, in order
    fits: int  # how many of those are kept

    def tokens(self) -> tuple[Ids, Ids]:
        """Return which tokens are kept, the last one last, and ascending those of all its bins."""
        near = np.flatnonzero(self.bin <= self.last)
        kept = np.concatenate((near[self.bin[near] < self.last], self.inside[: self.fits]))
        return (kept, near) if self.among is None else (self.among[kept], self.among[near])


def nucleus(seen: Seen, top_p: float, crossing: Crossing) -> Nucleus:
    """Find the tokens of one row that top-p keeps."""
    found = nucleus_of_few(seen, top_p, crossing)
    if found is not None:
        return found
    place = seen.places(scratch_for(len(seen.logits), seen.logits.device))
    bins, mass = place.numpy(), seen.masses(place)
    return Nucleus(None, bins, *_end(seen, bins, mass, top_p * mass[-1], crossing))


def _end(
    seen: Seen, place: Ids, mass: Numbers, limit: float, crossing: Crossing
) -> tuple[int, Ids, int]:
    """Return the bin in which the mass passes a limit, its tokens in order, and how many fit."""
    last = int((mass > limit).argmax())
    inside = np.flatnonzero(place == last)
    inside = inside[np.argsort(-seen.logits.numpy()[inside], kind="stable")]
    weights = seen.weight.numpy()[inside].astype(np.float64)
    reached = mass[last] - weights.sum() + weights.cumsum()
    fits = int(fitting(reached, weights, limit, crossing))
    # Tokens without weight are the last in the order.
    return last, inside, min(fits, int(np.count_nonzero(weights > 0.0)))


def nucleus_of_few(seen: Seen, top_p: float, crossing: Crossing) -> Nucleus | None:
    """Find the tokens that top-p keeps by those of large weights; None where that is not certain.

    The bins of these tokens are summed as those of all are.  What is added up of the other tokens,
    one after the other, differs from their true mass by rounding, n u of it for n additions with an
    error of u each.  So it lies between two bounds, and if top-p ends at the same token for both,
    it ends there.
    """
    weight, size = seen.weight.numpy(), len(seen.weight)
    if size < _LARGE:
        return None
    # Whole stretches of columns: single ones would read a good part of the row.
    stretches = weight[: size // _APART * _APART].reshape(-1, _APART)[:, :_STRETCH]
    sample = np.sort(stretches, axis=None)
    tail = sample.cumsum() * (size / len(sample))
    first = int((1.0 - _FEW) * len(sample))
    if tail[first] > _FLAT:
        return None
    total = float(seen.weight.sum())
    rest = int(np.searchsorted(tail, total * min(_REST, (1.0 - top_p) / 4)))
    if rest <= first:
        return None
    least = max(float(sample[rest - 1]), _LEAST)
    chosen = weight > least
    whole = int(-math.log(least) * seen.per_nat) - 2  # a bin that no other token is in, nor before
    if whole < 0 or np.count_nonzero(chosen) > 2 * _FEW * size:
        return None
    among = np.flatnonzero(chosen)
    few = seen.only(among)
    place = few.places()
    bins, mass = place.numpy(), few.masses(place)
    unit = float(np.finfo(weight.dtype).eps) / 2
    others = total - float(few.weight.numpy()[bins <= whole].sum(dtype=np.float64))
    slack, loss = total * _DEPTH * unit, math.expm1(size * unit)
    least_mass = mass[whole] + max(others - slack, 0.0) * max(1.0 - loss, 0.0)
    most_mass = mass[whole] + (others + slack) * (1.0 + loss)
    if mass[whole] <= top_p * most_mass:
        return None
    last, inside, fits = _end(few, bins, mass, top_p * least_mass, crossing)
    other, _, others_fit = _end(few, bins, mass, top_p * most_mass, crossing)
    if (last, fits) != (other, others_fit):
        return None
    return Nucleus(among, bins, last, inside, fits)


def fitting(reached: Any, inside: Any, limit: Any, crossing: Crossing) -> Any:
    """Count the tokens, in order, before the limit; `filters` says what the crossing is."""
    fits = reached - inside < limit if crossing == "include" else reached <= limit
    return np.count_nonzero(fits) if fits.ndim == 1 else np.count_nonzero(fits, axis=-1)

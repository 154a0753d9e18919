"""Sum a token law over the vocabulary, and find the extremes of a tile."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dlm_sampling.errors import NoLawError
from dlm_sampling.ops.filters import Boundary
from dlm_sampling.ops.host_sync import sync_allowed
from dlm_sampling.ops.temperature import LOG2E
from dlm_sampling.ops.vocabulary import RUN


class LawSums(NamedTuple):
    """Hold the sums of one law, with weights exp((x - peak) / temperature); tensors [b]."""

    tiles: Tensor  # [b, tiles], sums of the weights
    total: Tensor  # float64
    entropy: Tensor | None  # float64, nats; None where it was not asked for
    boundary: Boundary | None  # of the tokens that pass the filters


class Reading(NamedTuple):
    """Hold the numbers that one reading of the logits of a block leaves; tensors [b]."""

    best: Tensor | None  # int64, the token of the largest logit; None where nobody asked
    peak: Tensor  # the largest logit
    second: Tensor | None  # the largest logit of all other tokens; None where nobody asked
    shown: LawSums | None  # the law of the statistics; None where nobody asked
    drawn: LawSums | None  # the law that tokens are drawn from; None where all are the argmax
    tile: Tensor | None  # [b, width], the logits of one tile that is all; None where none is drawn


def joined(readings: list[Reading]) -> Reading:
    """Return the readings of several blocks as one; without the logits of their tiles."""
    if len(readings) == 1:
        return readings[0]
    first = readings[0]
    return Reading(
        None if first.best is None else torch.cat([r.best for r in readings if r.best is not None]),
        torch.cat([r.peak for r in readings]),
        None
        if first.second is None
        else torch.cat([r.second for r in readings if r.second is not None]),
        None
        if first.shown is None
        else _joined_sums([r.shown for r in readings if r.shown is not None]),
        None
        if first.drawn is None
        else _joined_sums([r.drawn for r in readings if r.drawn is not None]),
        None,
    )


def _joined_sums(sums: list[LawSums]) -> LawSums:
    """Return the sums of several blocks as one."""
    entropies = [one.entropy for one in sums if one.entropy is not None]
    boundaries = [one.boundary for one in sums if one.boundary is not None]
    return LawSums(
        torch.cat([one.tiles for one in sums]),
        torch.cat([one.total for one in sums]),
        torch.cat(entropies) if entropies else None,
        Boundary(*map(torch.cat, zip(*boundaries, strict=True))) if boundaries else None,
    )


def largest(logits: Tensor) -> Tensor:
    """Return the place of the largest logit of each row [b, width], the first of equals, [b, 1].

    torch searches number by number, NumPy by vectors; on another device a run's largest logit is
    found first, so that the search goes through 32 + width / 32 numbers only.
    """
    if logits.is_cpu and sync_allowed():
        return torch.from_numpy(logits.numpy().argmax(-1)[:, None])
    runs = logits.view(logits.shape[0], -1, RUN)
    run = runs.amax(-1).argmax(-1, keepdim=True)
    return run * RUN + run_at(runs, run).argmax(-1, keepdim=True)


def other_than(logits: Tensor, place: Tensor) -> Tensor:
    """Return the largest logit [b] of rows [b, width] at other places than `place` [b, 1]."""
    best = logits.gather(1, place)
    others = logits.scatter_(1, place, -math.inf).amax(-1)
    logits.scatter_(1, place, best)
    return others


def run_at(runs: Tensor, run: Tensor) -> Tensor:
    """Return one run, [b, RUN], of each row of runs [b, n, RUN] (run int64 [b, 1])."""
    return runs.gather(1, run.unsqueeze(-1).expand(-1, 1, RUN)).squeeze(1)


def sum_products(products: Tensor, out: Tensor) -> Tensor:
    """Write the sum of each tile of products [r, tiles, width] to `out`; 0 * (-inf) counts as 0."""
    torch.sum(products, -1, out=out)
    if not sync_allowed() or not all_finite(out):
        mended = products.nan_to_num(nan=0.0).sum(-1)
        out.copy_(torch.where(out.isfinite(), out, mended))
    return out


def entropy_of(total: Tensor, products: Tensor) -> Tensor:
    """Return the entropy in nats of laws with these totals (float64) and sums of products [b, t].

    A product is a weight times its exponent in base 2.
    """
    return (total.log() - products.sum(-1, dtype=torch.float64) / total / LOG2E).clamp_(min=0.0)


def all_finite(values: Tensor) -> bool:
    """Return whether all entries are finite, or nearly: a sum that overflows may say no."""
    if values.is_cpu:
        plain = values.detach() if values.requires_grad else values
        return 0 not in np.isfinite(plain.numpy()).tobytes()
    return math.isfinite(values.sum().item())


def refuse_lawless(peak: Tensor, offset: int) -> None:
    """Raise NoLawError if the largest logit of a row is not finite; rows count from `offset`."""
    if all_finite(peak):
        return
    good = peak.isfinite()
    if good.all():
        return
    row = int((~good).to(torch.uint8).argmax())
    what = {math.inf: "+inf", -math.inf: "no token that may be drawn"}.get(peak[row].item(), "NaN")
    raise NoLawError(
        f"row {offset + row} of the logits holds {what}: check the model's output "
        "(a wider dtype helps against overflow), or suppress fewer ids."
    )

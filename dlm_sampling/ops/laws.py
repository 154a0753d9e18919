"""Sum a token law over the vocabulary, and find the extremes of a tile."""

from __future__ import annotations

import math
from typing import NamedTuple

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

    best: Tensor  # int64, the token of the largest logit
    peak: Tensor  # the largest logit
    second: Tensor  # the largest logit of all other tokens
    shown: LawSums  # the law of the statistics
    drawn: LawSums  # the law that tokens are drawn from
    tile: Tensor | None  # [b, width], the logits of a vocabulary of one tile, else None


def best_of(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return place [b, 1] and value [b] of the largest logit of tiles [b, width], and the second.

    The first of equal logits is the largest.  A run's largest logit is found first: a search for
    the place goes number by number, and so through 32 + width / 32 numbers only.
    """
    runs = logits.view(logits.shape[0], -1, RUN)
    largest = runs.amax(-1)
    run = largest.argmax(-1, keepdim=True)
    inside = run_at(runs, run)
    lane = inside.argmax(-1, keepdim=True)
    value = inside.gather(1, lane)[:, 0]
    others = inside.scatter_(1, lane, -math.inf).amax(-1)
    elsewhere = largest.scatter_(1, run, -math.inf).amax(-1)
    return run * RUN + lane, value, torch.maximum(others, elsewhere)


def run_at(runs: Tensor, run: Tensor) -> Tensor:
    """Return one run, [b, RUN], of each row of runs [b, n, RUN] (run int64 [b, 1])."""
    return runs.gather(1, run.unsqueeze(-1).expand(-1, 1, RUN)).squeeze(1)


def sum_products(products: Tensor, out: Tensor) -> Tensor:
    """Write the sum of each tile of products [r, tiles, width] to `out`; 0 * (-inf) counts as 0."""
    torch.sum(products, -1, out=out)
    if not sync_allowed() or not math.isfinite(out.sum().item()):
        mended = products.nan_to_num(nan=0.0).sum(-1)
        out.copy_(torch.where(out.isfinite(), out, mended))
    return out


def entropy_of(total: Tensor, products: Tensor) -> Tensor:
    """Return the entropy in nats of laws with these totals (float64) and sums of products [b, t].

    A product is a weight times its exponent in base 2.
    """
    return (total.log() - products.sum(-1, dtype=torch.float64) / total / LOG2E).clamp_(min=0.0)


def refuse_lawless(peak: Tensor, offset: int) -> None:
    """Raise NoLawError if the largest logit of a row is not finite; rows count from `offset`."""
    if math.isfinite(peak.sum().item()):
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

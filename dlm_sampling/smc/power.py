"""Sample p(x)^alpha / Z by Metropolis: part of a row is written anew, and kept or not.

    propose   mask a random part of the positions, and write it anew, one position per pass
    accept    with probability  min(1, (p_new / p_old)^(alpha - 1)),  p the model's probability of
              the part given the rest, in the order in which it was written

The order is drawn uniformly, and is part of the state: its target is p(order) p(x | order)^alpha,
of which the x part is p^alpha / Z where the model's conditionals are those of one joint law, so
that no order matters.  After Karan and Du 2025, "Reasoning with Sampling", arXiv:2510.14901, who
write a suffix anew from left to right.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dlm_sampling import ops
from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.engine.sample import sample
from dlm_sampling.errors import check_real, check_whole
from dlm_sampling.ops.philox import Rng, Stream
from dlm_sampling.samplers import create
from dlm_sampling.types import TokenLaw


@dataclass(frozen=True)
class PowerOutput:
    """Hold the rows of a chain after its last move.

    Fields:
        tokens: int64 [B, L].
        logprob: float64 [B], log-probability of each row in the order that it was written in.
        accepted: float64 [B], share of the moves that were taken.
        nfe: int64 [B], forward passes.
    """

    tokens: Tensor
    logprob: Tensor
    accepted: Tensor
    nfe: Tensor


def sample_power(
    denoiser: Denoiser,
    tokens: Tensor,
    editable: Tensor,
    *,
    alpha: float,
    moves: int,
    seeds: Sequence[int],
    attention_mask: Tensor | None = None,
) -> PowerOutput:
    """Sample rows from the model's law to the power alpha.

    Args:
        denoiser: a model with masks.
        tokens: int64 [B, L], as in `sample`.
        editable: bool [B, L].
        alpha: power, finite; 1 is the model's law.
        moves: proposals after the first text; 0 is a plain run.
        seeds: one per row.
        attention_mask: bool [B, L], False at padding, or None.

    Raises:
        ValueError: an argument is out of range.

    NFE: n + sum of the lengths of the parts, n positions to write; about n (1 + moves / 2).
    """
    check_real("alpha", alpha)
    check_whole("moves", moves)
    if not math.isfinite(alpha):
        raise ValueError(f"alpha={alpha}: must be finite; 1 is the model's law, try 4.")
    if moves < 0:
        raise ValueError(f"moves={moves}: must be at least 0; try 10.")
    device = denoiser.device
    editable = editable.to(device)
    rng = Rng.from_seeds(seeds, device=device)
    total = editable.sum(1)
    x, place, logp, nfe = _written(denoiser, tokens.to(device), editable, attention_mask, seeds)
    taken = torch.zeros(len(x), dtype=torch.float64, device=device)
    for move in range(1, moves + 1):
        at = rng.with_step(torch.full_like(rng.step, move))
        kept = (at.uniform(Stream.POSITION, total) * total).long()  # 0 to n - 1 stay as they are
        part = editable & (place >= kept.unsqueeze(1))
        fresh = [ops.row_seeds(seed, moves + 1)[move] for seed in seeds]
        new, order, new_logp, cost = _written(denoiser, x, part, attention_mask, fresh)
        gain = ((new_logp - logp) * part).sum(1) * (alpha - 1.0)
        accept = at.uniform(Stream.COMMIT, total).log() < gain
        take = accept.unsqueeze(1) & part
        x = torch.where(take, new, x)
        place = torch.where(take, order + kept.unsqueeze(1), place)
        logp = torch.where(take, new_logp, logp)
        taken, nfe = taken + accept, nfe + cost
    return PowerOutput(x, logp.sum(1), taken / max(1, moves), nfe)


def _written(
    denoiser: Denoiser,
    tokens: Tensor,
    part: Tensor,
    attention: Tensor | None,
    seeds: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Write the positions of `part`, one per pass in random order.

    Returns the rows, the place of each position in the order, int64 [B, L], log-probabilities
    float64 [B, L], and the passes of each row.
    """
    out = sample(
        denoiser, create("llada-random"), tokens, part, attention_mask=attention, seeds=seeds,
        law=TokenLaw(), return_trajectory=True,
    )  # fmt: skip
    place = torch.zeros_like(tokens)
    if out.trajectory is not None:
        for event in out.trajectory.events:
            step = torch.where(event.written, event.step.unsqueeze(1), place[event.rows])
            place[event.rows] = step
    return out.tokens, place, out.logprob.double(), out.nfe

"""Hold dInfer's parallel decoders: a threshold with near-ties, and a hierarchy of runs of masks.

    threshold:  commit i if p_i >= min(tau, max_j p_j - 1e-5)
    hierarchy:  commit the most confident position of every maximal run of unknown ones if p > low,
                every position with p > tau, and the most confident position of the block

Ma et al. 2025, "dInfer: An Efficient Inference Framework for Diffusion Language Models",
arXiv:2510.08666, and the released ThresholdParallelDecoder and HierarchyDecoder.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dlm_sampling.ops import threshold_positions
from dlm_sampling.samplers.base import ConfidenceSampler
from dlm_sampling.samplers.parts.checks import log_threshold, probability_threshold
from dlm_sampling.samplers.parts.quotas import near_best_positions
from dlm_sampling.samplers.registry import register

PAPER = "Ma et al. 2025, arXiv:2510.08666"


@dataclass(frozen=True)
class DInferThreshold(ConfidenceSampler):
    """Write the positions whose confidence reaches `threshold` or is within 1e-5 of the best one.

    The number of steps is not used.  Confidence is the drawn token's probability under the model's
    own law.

    Fields:
        threshold: tau; above 1 it is one token per step, near-ties aside.

    NFE: adaptive, 1 to the number of tokens.
    """

    threshold: float = 0.9

    paper = PAPER

    def __post_init__(self) -> None:
        super().__post_init__()
        probability_threshold("threshold", self.threshold, "the released default is 0.9")

    def positions(self, log_confidence: Tensor, eligible: Tensor) -> Tensor:
        """Return the positions that reach the bound, bool [B, L]."""
        return near_best_positions(log_confidence, eligible, self.threshold)


def best_of_runs(score: Tensor, eligible: Tensor) -> Tensor:
    """Return the best of every run of eligible positions, bool [B, L]; the first on ties."""
    width = score.shape[1]
    before = torch.nn.functional.pad(eligible[:, :-1], (1, 0))
    run = ((eligible & ~before).long().cumsum(1) - 1).clamp_min(0)
    score = score.masked_fill(~eligible, -math.inf)
    best = torch.full_like(score, -math.inf).scatter_reduce(1, run, score, "amax").gather(1, run)
    column = torch.arange(width, device=score.device).expand_as(run)
    candidate = column.masked_fill(~eligible | (score < best), width)
    first = torch.full_like(candidate, width).scatter_reduce(1, run, candidate, "amin")
    return eligible & (column == first.gather(1, run))


@dataclass(frozen=True)
class DInferHierarchy(ConfidenceSampler):
    """Write the best of every run of unknown positions: tokens written together lie apart.

    The number of steps is not used.  Both comparisons are strict, as released.  Confidence is the
    drawn token's probability under the model's own law.

    Fields:
        threshold: positions above it are written wherever they are; None for no such rule.
        low_threshold: the best position of a run is written above it; None writes it always.  The
            released class has 0.4, the authors' scripts 0.3.

    NFE: adaptive, about log2(tokens) to the number of tokens.
    """

    threshold: float | None = 0.9
    low_threshold: float | None = 0.3

    paper = PAPER
    nfe = "adaptive; about log2(tokens) to tokens"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.threshold is not None:
            probability_threshold("threshold", self.threshold, "try 0.9, or None")
        if self.low_threshold is not None:
            probability_threshold("low_threshold", self.low_threshold, "try 0.3, or None")

    def positions(self, log_confidence: Tensor, eligible: Tensor) -> Tensor:
        """Return the best of each run and the positions above the threshold, bool [B, L]."""
        where = best_of_runs(log_confidence, eligible)
        if self.low_threshold is not None:
            where &= log_confidence > log_threshold(self.low_threshold)
        if self.threshold is not None:
            where |= eligible & (log_confidence > log_threshold(self.threshold))
        return where | threshold_positions(log_confidence, eligible, math.inf)


register("dinfer-threshold", DInferThreshold)
register("dinfer-hierarchy", DInferHierarchy)

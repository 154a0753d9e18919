"""Raise the logits of tokens that were the top prediction in earlier steps: credit decoding.

    C_i(v) <- beta C_i(v) + [v = argmax p_i] p_i(v)^gamma
    fused logits = logits + alpha ln(1 + C_i)

and positions are written by the threshold rule on the fused law.  C belongs to a block.  Wang et
al. 2025, "CreditDecoding", arXiv:2510.06133, as released in dInfer's
CreditThresholdParallelDecoder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dlm_sampling.samplers.base import AdaptiveSampler, DelayingSampler, reveal
from dlm_sampling.samplers.parts.checks import at_least, probability_threshold, unit_interval
from dlm_sampling.samplers.parts.quotas import near_best_positions
from dlm_sampling.samplers.registry import register
from dlm_sampling.types import Canvas, Clock, Predict, RandomSource, Step


class CreditState(NamedTuple):
    """Hold the credit of the block as a (token, weight) per step; the rest of [B, L, V] is 0."""

    token: Tensor  # int64 [B, L, K], the top prediction of step k
    weight: Tensor  # [B, L, K], its credit, decayed since; 0 where there is none


@dataclass(frozen=True)
class DInferCredit(DelayingSampler[CreditState], AdaptiveSampler[CreditState]):
    """Write by dInfer's threshold rule, under a law that favours tokens predicted before.

    Tokens are drawn from the fused law, and confidence is read from it.  The number of steps is not
    used.

    Fields:
        threshold: tau of the threshold rule.
        credit_alpha: weight of the credit in the logits; 0 is the plain threshold rule.
        boost_gamma: exponent of the probability that becomes credit.
        decay_beta: share of the credit that is left after a step.

    NFE: adaptive, 1 to the number of tokens.
    """

    threshold: float = 0.9
    credit_alpha: float = 0.7
    boost_gamma: float = 0.2
    decay_beta: float = 0.8

    paper = "Wang et al. 2025, arXiv:2510.06133"
    recorded_on = ()
    scored_on = ("absorbing",)

    def __post_init__(self) -> None:
        super().__post_init__()
        probability_threshold("threshold", self.threshold, "the released default is 0.9")
        at_least("credit_alpha", self.credit_alpha, 0.0, "the released default is 0.7")
        at_least("boost_gamma", self.boost_gamma, 0.0, "the released default is 0.2")
        unit_interval("decay_beta", self.decay_beta, "the released default is 0.8")

    def init(self, canvas: Canvas) -> CreditState:
        """Return a state without credit."""
        token = canvas.tokens.new_zeros(*canvas.tokens.shape, 0)
        return CreditState(token, token.float())

    def step(
        self,
        state: CreditState,
        canvas: Canvas,
        clock: Clock,
        predict: Predict,
        rng: RandomSource,
    ) -> tuple[CreditState, Step]:
        """Add this step's credit, draw from the fused law, write positions that reach the bound."""
        eligible = canvas.eligible
        prediction = predict(canvas.tokens, canvas.unknown_fraction)
        logits = prediction.log_probs(eligible)
        state = self.credited(state, logits, eligible, clock)
        credit = torch.zeros_like(logits)
        credit.scatter_add_(1, state.token[eligible], state.weight[eligible].to(logits.dtype))
        logits.add_(credit.log1p_(), alpha=self.credit_alpha)
        draw = prediction.draw_from(logits, eligible, rng)
        among = self.in_time(draw, eligible)
        where = near_best_positions(draw.log_confidence, among, self.threshold)
        return state, reveal(canvas, where, draw)

    def credited(
        self, state: CreditState, log_p: Tensor, eligible: Tensor, clock: Clock
    ) -> CreditState:
        """Decay the credit, drop that of an earlier block, enter this step's top predictions."""
        slots = int(clock.step.max()) + 1
        grow = (0, slots - min(slots, state.token.shape[2]))
        token = torch.nn.functional.pad(state.token[..., :slots], grow)
        old = torch.nn.functional.pad(state.weight[..., :slots], grow)
        slot = torch.arange(slots, device=token.device)
        now, past = slot == clock.step[:, None, None], slot < clock.step[:, None, None]
        top, best = log_p.max(1)
        new = (self.boost_gamma * top).exp().to(old.dtype)
        scatter = eligible.unsqueeze(2) & now
        weight = (old * self.decay_beta).masked_fill(~past, 0.0).masked_scatter(scatter, new)
        return CreditState(token.masked_scatter(scatter, best), weight)


register("dinfer-credit", DInferCredit)

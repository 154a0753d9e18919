"""Keep the draws of a block that are certain and draw the others anew, as DiffusionGemma does.

    T_n = t_min + (t_max - t_min) n / N,  n = N .. 1 steps left
    candidates v_i ~ softmax(logits / T_n), of entropy H_i
    accept the k positions of lowest H with  sum H - max H <= gamma
    next canvas: v_i where accepted, a uniform token elsewhere; every step accepts afresh
    the block is over when its argmax canvas has not changed for m steps and the mean of H is
    below eps; the result is that argmax canvas, not the accepted one

Released in transformers (`diffusion_gemma`, `EntropyBoundSampler`), where logits / T_n are also
what the network is given back in the next step; the bound is that of Ben-Hamu et al. 2025,
arXiv:2505.24857.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dlm_sampling.ops import Stream, budget_positions
from dlm_sampling.samplers.base import SamplerBase
from dlm_sampling.samplers.parts.checks import above_zero, at_least
from dlm_sampling.samplers.registry import register
from dlm_sampling.types import Canvas, Clock, Predict, RandomSource, Step


class Stability(NamedTuple):
    """Hold the argmax canvas of the last step, and for how long it has been the same."""

    best: Tensor  # int64 [B, L], argmax canvas of the last step
    unchanged: Tensor  # int64 [B], steps for which it has stayed the same
    over: Tensor  # bool [B], whether it is the result


@dataclass(frozen=True)
class DiffusionGemma(SamplerBase[Stability]):
    """Draw a whole block, keep the draws of least entropy within a bound, and replace the rest.

    For networks that draw clean tokens from their logits at any noise; there is no level of noise
    in the rule.  A temperature or filters of the run act on the law at T_n.

    Fields:
        gamma: entropy bound in nats.
        t_max: temperature of the first step.
        t_min: temperature that the schedule runs to, and stops one step short of.
        stable_steps: m, steps for which the argmax canvas must not have changed.
        confidence: eps, bound on the mean entropy in nats, compared strictly.
        max_steps: N of a block, unless the caller names a number.

    NFE: 1 per step, at most N per block.
    """

    gamma: float = 0.1
    t_max: float = 0.8
    t_min: float = 0.4
    stable_steps: int = 1
    confidence: float = 0.005
    max_steps: int = 48

    unscored = "its result is an argmax canvas, and the draws that it kept stand in no record"
    paper = "Ben-Hamu et al. 2025, arXiv:2505.24857"
    nfe = "adaptive; at most steps per block"
    runs_on = ("uniform",)

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("gamma", self.gamma, 0.0, "the released value is 0.1")
        at_least("stable_steps", self.stable_steps, 0, "the released value is 1")
        at_least("confidence", self.confidence, 0.0, "the released value is 0.005 nats")
        at_least("max_steps", self.max_steps, 1, "the released value is 48")
        above_zero("t_max", self.t_max, "the released value is 0.8")
        if not 0.0 <= self.t_min <= self.t_max:
            raise ValueError(
                f"t_min={self.t_min}, t_max={self.t_max}: need 0 <= t_min <= t_max; "
                "the released values are 0.4 and 0.8."
            )

    @property
    def revises(self) -> bool:
        """Return True: no token is final before the end of its block."""
        return True

    @property
    def exact(self) -> bool:
        """Return False: the result is the argmax, not the tokens drawn."""
        return False

    @property
    def own_steps(self) -> int:
        """Return the planned steps of a block."""
        return self.max_steps

    def init(self, canvas: Canvas) -> Stability:
        """Return an argmax canvas of -1, which is no token: the first one counts as a change."""
        still = torch.zeros_like(canvas.start)
        return Stability(torch.full_like(canvas.tokens, -1), still, still.bool())

    def step(
        self,
        state: Stability,
        canvas: Canvas,
        clock: Clock,
        predict: Predict,
        rng: RandomSource,
    ) -> tuple[Stability, Step]:
        """Accept and replace; in the last step of a block, write its argmax canvas."""
        where = canvas.editable
        time = clock.begin * left(clock)  # a draft is less noisy than the canvas of a first step
        prediction = predict(canvas.tokens, time, self.temperature(clock))
        draw = prediction.draw(where, rng, statistics="law")
        best = prediction.draw(where, rng, greedy=torch.ones_like(clock.last)).token
        state = self.settled(state, best, draw.entropy, canvas, clock)
        accepted = self.accept(draw.entropy, where)
        following = torch.where(accepted, draw.token, fresh_noise(best, rng, predict.vocab_size))
        logprob = draw.logprob.masked_fill(~accepted, -math.log(predict.vocab_size))
        done = (state.over | clock.last).unsqueeze(1)
        return state, Step(
            tokens=torch.where(where, torch.where(done, best, following), canvas.tokens),
            unknown=canvas.unknown & ~(where & done),
            logprob=torch.where(done, draw.max_logprob, logprob).masked_fill(~where, 0.0),
            draw=draw,
        )

    def temperature(self, clock: Clock) -> Tensor:
        """Return T_n, float64 [B]: t_max at first, t_min + (t_max - t_min) / N in the last step."""
        return self.t_min + (self.t_max - self.t_min) * left(clock)

    def accept(self, entropy: Tensor, editable: Tensor) -> Tensor:
        """Return the positions whose candidates are kept, bool [B, L]; at least one per row.

        entropy [B, L] in nats belongs to the law at T_n, from which the candidates are drawn.
        """
        return budget_positions(-entropy, entropy, editable, self.gamma)

    def settled(
        self, state: Stability, best: Tensor, entropy: Tensor, canvas: Canvas, clock: Clock
    ) -> Stability:
        """Return the state of the stop rule after a step with the argmax canvas `best`, [B, L]."""
        where, first = canvas.editable, clock.step == 0
        same = ((best == state.best) | ~where).all(1) & ~first
        unchanged = torch.where(same, state.unchanged + 1, 0)
        total = entropy.double().masked_fill(~where, 0.0).sum(1)
        sure = total / where.sum(1).clamp_min(1) < self.confidence
        return Stability(best, unchanged, (unchanged >= self.stable_steps) & sure)

    def finished(self, state: Stability, canvas: Canvas, clock: Clock) -> Tensor:
        """Return the rows whose argmax canvas is stable and certain."""
        return state.over


def left(clock: Clock) -> Tensor:
    """Return n / N, the share of the steps that is left, float64 [B]."""
    return (clock.steps - clock.step).double() / clock.steps.double()


def fresh_noise(like: Tensor, rng: RandomSource, vocab_size: int) -> Tensor:
    """Draw uniform tokens floor(V u), int64 like `like` [B, L], other ones than the prior's."""
    u = rng.uniform(Stream.RESAMPLE, like)
    return (u * vocab_size).long().clamp_(max=vocab_size - 1)


register("diffusion-gemma", DiffusionGemma)

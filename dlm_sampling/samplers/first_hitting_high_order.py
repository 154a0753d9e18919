"""Write several hits per forward pass from a law of second order in time (experimental).

A group of hits tau_1 > tau_2 > ... shares a forward pass at tau_1, so only its first token is drawn
from the right law p(tau_1).  Two remedies for the later ones:

    extrapolation        p(tau) ~ p_a + (tau_a - tau) / (tau_b - tau_a) (p_a - p_b),  clamped at 0,
    normalised predictor-corrector  draw with p_a, run the model on the result, draw again with (p_a
    + p_c) / 2

p_a is the current prediction, at tau_a = tau_1, p_b the previous one, at tau_b > tau_a, and p_c
that of the filled canvas.

The idea is named in Zheng et al. 2024, arXiv:2409.02908; no code was released, and both rules here
are reconstructions.  Each row keeps the laws of one group, [tokens per step, V].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dlm_sampling.samplers.base import SamplerBase, reveal
from dlm_sampling.samplers.parts.checks import at_least
from dlm_sampling.samplers.parts.hitting_times import Hits, HitState
from dlm_sampling.samplers.parts.kept_laws import merge_draws, pack, unpack
from dlm_sampling.samplers.registry import register
from dlm_sampling.schedules import LINEAR, Schedule
from dlm_sampling.types import Canvas, Clock, Predict, RandomSource, Step

_PAPER = "experimental reconstruction after Zheng et al. 2024, arXiv:2409.02908"


class ExtrapolationState(NamedTuple):
    """Hold the hitting times, and the previous prediction at the next group."""

    hits: HitState
    time: Tensor  # float64 [B], time of the previous forward pass
    laws: Tensor  # [B, K, V], log-laws of that pass at the positions of the next group


class CorrectionState(NamedTuple):
    """Hold the hitting times, and the positions to be drawn again."""

    hits: HitState
    group: Tensor  # int64 [B], groups written in this block
    pending: Tensor  # bool [B, L], written positions to draw again
    laws: Tensor  # [B, K, V], log-laws that they were drawn from


@dataclass(frozen=True)
class FirstHittingExtrapolation(SamplerBase[ExtrapolationState]):
    """Draw the later hits of a group from a law extrapolated in time; experimental.

    With one token per forward pass this is `FirstHitting`, token for token; so is the first group
    of a block.

    Fields:
        tokens_per_step: tokens per forward pass; None spreads the block over the planned steps.
        max_weight: largest factor of p_a - p_b, >= 0; bounds the rule where two hits nearly
            coincide, and 0 is `FirstHitting`.
        schedule: alpha(t), which sets the times.

    NFE: ceil(tokens / tokens_per_step).
    """

    tokens_per_step: int | None = None
    max_weight: float = 1.0
    schedule: Schedule = LINEAR

    paper = _PAPER
    recorded_on = ()
    scored_on = ("absorbing",)
    nfe = "ceil(tokens / tokens_per_step)"
    clock_use = "begin"

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("max_weight", self.max_weight, 0.0, "0 is first-hitting, try 1")
        _ = self.hits

    @property
    def hits(self) -> Hits:
        """Return the rule that draws this sampler's hitting times and groups them."""
        return Hits(self.tokens_per_step, schedule=self.schedule)

    def schedule_length(self, steps: int) -> int | None:
        """Return the number of groups, as in first-hitting sampling."""
        return self.hits.schedule_length(steps)

    def init(self, canvas: Canvas) -> ExtrapolationState:
        """Return times of 0; they are drawn when a row enters a block."""
        hits = self.hits.init(canvas)
        laws = torch.zeros(
            len(canvas.start), 0, 1, dtype=torch.float32, device=canvas.tokens.device
        )
        return ExtrapolationState(hits, torch.ones_like(canvas.start, dtype=torch.float64), laws)

    def step(
        self,
        state: ExtrapolationState,
        canvas: Canvas,
        clock: Clock,
        predict: Predict,
        rng: RandomSource,
    ) -> tuple[ExtrapolationState, Step]:
        """Write the next group of hits."""
        hits = self.hits.enter_block(state.hits, canvas, clock, rng)
        where, t = self.hits.next_group(hits, canvas, clock)
        prediction = predict(canvas.tokens, t)
        weight = (t.unsqueeze(1) - hits.tau) / (state.time - t).unsqueeze(1)
        weight = (
            weight.nan_to_num(nan=0.0)
            .clamp(0.0, self.max_weight)
            .masked_fill(clock.step.unsqueeze(1) == 0, 0.0)
        )
        later = where & (weight > 0.0)
        draw = prediction.draw(where & ~later, rng)
        if bool(later.any()):
            logits = _extrapolate(
                prediction.log_probs(later), unpack(state.laws, where, later), weight[later]
            )
            draw = merge_draws(later, prediction.draw_from(logits, later, rng), draw)
        laws = pack(prediction, self.following(hits, canvas, clock, where))
        return ExtrapolationState(hits, t, laws), reveal(canvas, where, draw)

    def following(self, hits: HitState, canvas: Canvas, clock: Clock, where: Tensor) -> Tensor:
        """Return the group after `where`, bool [B, L]; nothing in rows that write nothing now."""
        rest = canvas._replace(unknown=canvas.unknown & ~where)
        after, _ = self.hits.next_group(hits, rest, Clock(clock.step + 1, clock.steps))
        return after & where.any(1, keepdim=True)


@dataclass(frozen=True)
class FirstHittingCorrection(SamplerBase[CorrectionState]):
    """Draw a group of hits, then draw all but the first again with a second look; experimental.

    p_c is what the model says at a position that holds a token.  An exact posterior answers with
    the token itself, and then the result has the law of `FirstHitting`; only models that keep a law
    there can gain. With one token per forward pass there is nothing to correct.

    Fields:
        tokens_per_step: tokens per group; None spreads the block over the planned steps.
        schedule: alpha(t), which sets the times.

    NFE: 2 per group of more than one token, 1 per group of one.
    """

    tokens_per_step: int | None = None
    schedule: Schedule = LINEAR

    paper = _PAPER
    recorded_on = ()
    scored_on = ("absorbing",)
    nfe = "2 per group of more than one token, 1 per group of one"
    clock_use = "begin"

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.hits

    @property
    def hits(self) -> Hits:
        """Return the rule that draws this sampler's hitting times and groups them."""
        return Hits(self.tokens_per_step, schedule=self.schedule)

    @property
    def revises(self) -> bool:
        """Return True: the later hits of a group are drawn twice."""
        return True

    @property
    def constrainable(self) -> bool:
        """Return False: a step replaces the tokens of the last group."""
        return False

    @property
    def exact(self) -> bool:
        """Return False: the second law reads the first draw."""
        return False

    def schedule_length(self, steps: int) -> int | None:
        """Return None: a block goes on until `finished`."""
        return None

    def finished(self, state: CorrectionState, canvas: Canvas, clock: Clock) -> Tensor | None:
        """Return the rows in which no position is unknown and none waits for its second draw."""
        return ~(canvas.eligible | state.pending).any(1)

    def init(self, canvas: Canvas) -> CorrectionState:
        """Return times of 0; they are drawn when a row enters a block."""
        laws = torch.zeros(
            len(canvas.start), 0, 1, dtype=torch.float32, device=canvas.tokens.device
        )
        nothing = torch.zeros_like(canvas.unknown)
        return CorrectionState(
            self.hits.init(canvas), torch.zeros_like(canvas.start), nothing, laws
        )

    def step(
        self,
        state: CorrectionState,
        canvas: Canvas,
        clock: Clock,
        predict: Predict,
        rng: RandomSource,
    ) -> tuple[CorrectionState, Step]:
        """Correct the last group where there is one to correct, else write the next."""
        hits = self.hits.enter_block(state.hits, canvas, clock, rng)
        group = state.group.masked_fill(clock.step == 0, 0)
        again = state.pending
        where, t = self.hits.next_group(hits, canvas, Clock(group, clock.steps))
        where = where & ~again.any(1, keepdim=True)
        prediction = predict(canvas.tokens, t)
        draw = prediction.draw(where, rng)
        if bool(again.any()):
            both = torch.logaddexp(prediction.log_probs(again), unpack(state.laws, again, again))
            draw = merge_draws(again, prediction.draw_from(both, again, rng), draw)
        pending = where & (hits.tau < t.unsqueeze(1))
        written = reveal(canvas, where | again, draw)
        group = group + where.any(1).long()
        return CorrectionState(hits, group, pending, pack(prediction, pending)), written


def _extrapolate(log_now: Tensor, log_before: Tensor, weight: Tensor) -> Tensor:
    """Return log max{p_a + w (p_a - p_b), 0}, [R, V], of mass >= 1; the draw normalises it."""
    now, before = log_now.exp(), log_before.exp()
    return (now + weight.to(now.dtype).unsqueeze(1) * (now - before)).clamp_min(0.0).log()


register("first-hitting-extrapolation", FirstHittingExtrapolation)
register("first-hitting-correction", FirstHittingCorrection)

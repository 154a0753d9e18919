"""Redraw the tokens that a masked model finds unlikely when that position is masked.

    p_i = p(. | x with i masked)       in passes over disjoint random groups of positions
    rho_i = b / (alpha p_i(x_i) + b),  b = (1 - alpha) / S;   alpha: the share of tokens not noise
    y_i ~ p_i replaces x_i with probability J rho_i,  J = 1 / (rounds left)

The canvas holds tokens, at first uniform noise over all ids but the mask.  A round of passes scores
every position once, infers alpha by the damped fixed point `processes.planned.level_of`, and then
redraws positions.  J is that of a linear schedule, so the last round draws every position from its
posterior.  The positions of a group are masked together; a group of one is the formula as it
stands.  Self-planning after Liu et al. 2024, "Think While You Generate: Discrete Diffusion with
Planned Denoising", arXiv:2410.06264.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dlm_sampling.ops import Stream
from dlm_sampling.processes.jumps import mixture_law
from dlm_sampling.processes.planned import UniformTokens, level_of, noise_from_clean
from dlm_sampling.samplers.base import SamplerBase
from dlm_sampling.samplers.parts.checks import at_least
from dlm_sampling.samplers.registry import register
from dlm_sampling.schedules import LOG_LINEAR, Schedule
from dlm_sampling.types import Canvas, Clock, Draw, Predict, Process, RandomSource, Step


class SelfPlan(NamedTuple):
    """Hold the results of the passes of a round."""

    group: Tensor  # int64 [B, L], the pass that scores a position
    token: Tensor  # int64 [B, L], y
    logprob: Tensor  # [B, L], of y
    clean: Tensor  # float64 [B, L], p_i(x_i)
    noise: Tensor  # float64 [B, L], rho of the last round
    level: Tensor  # float64 [B], alpha of the last round


@dataclass(frozen=True)
class PlannedSelf(SamplerBase[SelfPlan]):
    """Score each token with that position masked, and redraw the unlikely ones.

    Fields:
        passes: forward passes of a round, each of which scores an equal share of the positions;
            None scores one position per pass, which is exact and takes n passes.
        hide_noise: mask each position also with the probability rho of the last round, so that the
            model does not read noise as text; False masks the scored positions only, which is the
            plain formula, and better if a few visible tokens carry little, as in a puzzle.
        schedule: alpha(t) of the times that a time-conditioned model is given.

    NFE: steps, in rounds of `passes`; steps that do not fill a round are not used.
    """

    passes: int | None = 4
    hide_noise: bool = True
    schedule: Schedule = LOG_LINEAR

    unscored = "which positions are drawn again follows from what the model says"
    paper = "Liu et al. 2024, arXiv:2410.06264"
    nfe = "at most steps, in rounds of `passes`"
    clock_use = "begin"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.passes is not None:
            at_least("passes", self.passes, 1, "try 4, or None for one per position")

    @property
    def revises(self) -> bool:
        """Return True: every token may be redrawn until the last round."""
        return True

    @property
    def exact(self) -> bool:
        """Return False: the plan reads the tokens drawn so far."""
        return False

    def canvas_process(self, process: Process) -> Process | None:
        """Return the uniform noise over all ids but the mask."""
        mask = process.mask_token_id
        return None if mask is None else UniformTokens(mask)

    def next_law(self, p: Tensor, noise: Tensor, x: Tensor, rounds_left: Tensor) -> Tensor:
        """Return the law of a position after a round, [..., V], from p_i [..., V], rho and x."""
        return mixture_law(p, x, noise / rounds_left)

    def init(self, canvas: Canvas) -> SelfPlan:
        """Return the state of pure noise."""
        level = torch.zeros_like(canvas.start, dtype=torch.float64)
        numbers = torch.zeros_like(canvas.tokens, dtype=torch.float64)
        return SelfPlan(canvas.tokens, canvas.tokens, numbers, numbers, numbers, level)

    def step(
        self, state: SelfPlan, canvas: Canvas, clock: Clock, predict: Predict, rng: RandomSource
    ) -> tuple[SelfPlan, Step]:
        """Take one pass; the last pass of a round also moves the canvas."""
        count = canvas.editable.sum(1).clamp_min(1)
        passes = count.minimum(clock.steps)
        if self.passes is not None:
            passes = passes.clamp(max=self.passes)
        number, turn = clock.step // passes, clock.step % passes
        state = self.enter(state, canvas, clock, turn == 0, passes, rng)
        asked = canvas.eligible & (state.group == turn.unsqueeze(1))
        state = self.ask(state, canvas, asked, count, predict, rng)
        rounds_left = clock.steps // passes - number
        ends = turn == passes - 1
        state = self.judge(state, canvas, ends, predict.vocab_size - 1)
        coin = state.noise / rounds_left.clamp_min(1).unsqueeze(1)
        u = rng.uniform(Stream.COMMIT, canvas.tokens)
        where = canvas.eligible & ends.unsqueeze(1) & (u < coin)
        over = ends & (rounds_left <= 1)
        return state, Step(
            tokens=torch.where(where, state.token, canvas.tokens),
            unknown=canvas.unknown & ~(canvas.editable & over.unsqueeze(1)),
            logprob=state.logprob.masked_fill(~where, 0.0),
        )

    def enter(
        self,
        state: SelfPlan,
        canvas: Canvas,
        clock: Clock,
        fresh: Tensor,
        passes: Tensor,
        rng: RandomSource,
    ) -> SelfPlan:
        """Begin a round in the rows of `fresh` (bool [B]): new groups; at step 0 all is noise.

        A draft is noise with probability 1 - alpha at the time at which it begins.
        """
        u = rng.uniform(Stream.POSITION, canvas.tokens).masked_fill(~canvas.editable, 2.0)
        place = u.argsort(1).argsort(1)
        first = (clock.step == 0).unsqueeze(1)
        level = self.schedule.alpha(torch.full_like(state.level, clock.begin))
        level = level if clock.begin < 1.0 else torch.zeros_like(level)
        noise = (1.0 - level).unsqueeze(1) * canvas.editable.double()
        return state._replace(
            group=torch.where(fresh.unsqueeze(1), place % passes.unsqueeze(1), state.group),
            noise=torch.where(first, noise, state.noise),
            level=torch.where(clock.step == 0, level, state.level),
        )

    def ask(
        self,
        state: SelfPlan,
        canvas: Canvas,
        asked: Tensor,
        count: Tensor,
        predict: Predict,
        rng: RandomSource,
    ) -> SelfPlan:
        """Take one pass: y and p_i(x_i) at the positions of `asked` (NFE 1 for rows with any)."""
        hidden = asked
        if self.hide_noise:
            u = rng.uniform(Stream.REMASK, canvas.tokens)
            hidden = asked | (canvas.eligible & (u < state.noise))
        ahead = canvas.unknown & ~canvas.editable
        mask = predict.process.mask_token_id
        assert mask is not None
        level = 1.0 - hidden.sum(1).double() / count
        x = canvas.tokens.masked_fill(hidden | ahead, mask)
        prediction = predict(x, self.schedule.time_of(level))
        draw: Draw = prediction.draw(asked, rng)
        clean = prediction.log_prob_of(canvas.tokens, asked).double().exp()
        return state._replace(
            token=torch.where(asked, draw.token, state.token),
            logprob=torch.where(asked, draw.logprob.double(), state.logprob),
            clean=torch.where(asked, clean, state.clean),
        )

    def judge(self, state: SelfPlan, canvas: Canvas, ends: Tensor, size: int) -> SelfPlan:
        """Compute the noise level and the ratio rho from the law of each token in all passes.

        Only in the rows whose round `ends` (bool [B]); the others keep theirs.
        """
        level = level_of(state.clean, canvas.eligible, state.level, size)
        noise = noise_from_clean(state.clean, level.unsqueeze(1), size)
        noise = noise.masked_fill(~canvas.eligible, 0.0)
        return state._replace(
            noise=torch.where(ends.unsqueeze(1), noise, state.noise),
            level=torch.where(ends, level, state.level),
        )


register("planned-self", PlannedSelf)

"""Simulate the reverse jump process by Gillespie's algorithm, k events per forward pass.

    wait_i ~ Exp(Lambda_i),  Lambda_i = sum_y R_t(x_i, y);   the k shortest waits happen,
    x_i <- y with probability R_t(x_i, y) / Lambda_i,        t moves on by the longest of them

The rates are frozen between forward passes, on the clock on which masks are revealed (noise comes)
at a constant rate.  With k = 1 that is exact on masks, where nothing but the clock changes between
events, and is a solver of first order under uniform noise.  Gillespie 1977; k events at a time:
Zhao et al. 2024, "Informed Correctors for Discrete Diffusion Models", arXiv:2407.21243.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor

from dlm_sampling.ops import Stream, any_or_assume, top_k_positions
from dlm_sampling.processes.tables import one_hot
from dlm_sampling.samplers.parts.checks import above_zero, at_least
from dlm_sampling.samplers.parts.event_clock import EventSampler, EventState, Moment
from dlm_sampling.samplers.registry import register
from dlm_sampling.types import (
    Canvas,
    Clock,
    Predict,
    Process,
    RandomSource,
    Site,
    Step,
)


class Clocked(Process, Protocol):
    """Describe a process with a clock of its own, on which its rates change least."""

    def unit_slope(self, alpha: Tensor, /) -> Tensor:
        """Return -alpha' per unit of the clock."""
        ...

    def level_after(self, alpha: Tensor, wait: Tensor, /) -> Tensor:
        """Return the level at which the clock is `wait` further on."""
        ...


@dataclass(frozen=True)
class Gillespie(EventSampler):
    """Let the next k jumps happen, each position at its own rate.

    At t_end every position that is still noisy is written from its posterior.  `steps` has no
    effect: the number of events is random.

    Fields:
        events_per_step: k, the events that one forward pass serves.
        longest_wait: longest time on the clock for which rates are kept; after it they are read
            again although nothing happened.  On masks they do not change, and inf is exact; under
            uniform noise the error falls with it, and with the length of the canvas.
        schedule, t_end, noise_removal: see `EventSampler`.

    NFE: one per k events or longest wait, and one for the last step; on masks about L / k.
    """

    events_per_step: int = 1
    longest_wait: float = math.inf

    unscored = "the times of its jumps follow from the model's rates, and stand in no record"
    paper = "Zhao et al. 2024, arXiv:2407.21243"
    nfe = "one per k events or longest wait, and one for the last step; on masks about L / k"
    clock_use = "begin"

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("events_per_step", self.events_per_step, 1, "1 is Gillespie's algorithm")
        if self.longest_wait != math.inf:
            above_zero("longest_wait", self.longest_wait, "try 0.1, or inf on masks")

    def patience(self, length: int) -> int:
        """Return a bound far beyond the number of events of a sensible network."""
        return super().patience(length) + math.ceil(50.0 / self.longest_wait)

    def step(
        self, state: EventState, canvas: Canvas, clock: Clock, predict: Predict, rng: RandomSource
    ) -> tuple[EventState, Step]:
        """Take the next k events of every row, or its last step."""
        process = cast(Clocked, predict.process)
        t = torch.where(clock.step == 0, clock.begin, state.t)
        ending = t <= self.t_end
        prediction, alpha = predict(canvas.tokens, t), self.schedule.alpha(t)
        open_ = canvas.eligible & ~ending.unsqueeze(1)
        exits: list[Tensor] = []

        def rule(site: Site) -> Tensor:
            jump, exit_rate = self.jumps(process, site.p, site.x, alpha[site.row])
            exits.append(exit_rate)
            return jump

        masks = canvas.mask_token_id is not None
        draw = prediction.draw_by(
            rule, open_, rng, alpha=alpha, reads=process.rates_read, own_law=masks
        )
        wait = torch.full(canvas.tokens.shape, torch.inf, dtype=alpha.dtype, device=alpha.device)
        if exits:
            waiting = -torch.log(rng.uniform(Stream.TIME, canvas.tokens))
            wait[open_] = waiting[open_] / torch.cat(exits)
        where, s = self.happen(process, wait, open_, alpha)
        return self.outcome(canvas, where, draw, s, Moment(process, prediction, alpha, ending), rng)

    def jumps(
        self, process: Clocked, values: Tensor, x: Tensor, alpha: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the law of the token after a jump, [r, V], and the rate of jumping, [r].

        values is the prediction of kind `process.rates_read`, [r, V]; alpha [r].
        """
        rates = process.rates(values, x, alpha, process.unit_slope(alpha))
        total = rates.sum(-1, keepdim=True)
        jump, stays = rates / total, ~(total > 0)
        if any_or_assume(stays):
            jump = one_hot(x, rates).where(stays, jump)
        return jump, total.squeeze(-1)

    def happen(
        self, process: Clocked, wait: Tensor, open_: Tensor, alpha: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the positions that jump before t_end, bool [B, L], and the last time, [B]."""
        k = torch.full(alpha.shape, self.events_per_step, device=alpha.device)
        chosen = top_k_positions(-wait, open_, k)
        s = self.schedule.time_of(process.level_after(alpha.unsqueeze(1), wait))
        chosen = chosen & (s > self.t_end) & (wait <= self.longest_wait)
        full = chosen.sum(1) == torch.minimum(k, open_.sum(1))
        last = s.masked_fill(~chosen, 1.0).amin(1)
        limit = torch.full_like(alpha, self.longest_wait)
        idle = self.schedule.time_of(process.level_after(alpha, limit)).clamp_min(self.t_end)
        following = torch.where(full, last, idle)
        return chosen, torch.where(open_.any(1), following, self.t_end)


register("gillespie", Gillespie)

"""Draw the time at which each mask is written, and group these hits by forward pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dlm_sampling.errors import check_fields
from dlm_sampling.ops import Stream, top_k_positions
from dlm_sampling.samplers.base import block_total, even_quota
from dlm_sampling.samplers.parts.checks import at_least, check_t_end
from dlm_sampling.samplers.parts.choices import log_independent, log_subset
from dlm_sampling.schedules import LINEAR, Schedule, grid_time
from dlm_sampling.types import Canvas, Clock, RandomSource


class HitState(NamedTuple):
    """Hold the hitting time of every position."""

    tau: Tensor  # float64 [B, L], hitting times of the current block
    total: Tensor  # int64 [B], unknown positions when the block began


@dataclass(frozen=True)
class Hits:
    """Draw independent hitting times, 1 - alpha(tau_i) = u_i (1 - alpha(1)), and group them.

    Fields:
        tokens_per_step: hits per group; None spreads the block over the planned steps.
        grid: group by the intervals of the equal grid from 1 to t_end instead.
        schedule: alpha(t).
        t_end: the end of the grid; later hits form one last group.
    """

    tokens_per_step: int | None = None
    grid: bool = False
    schedule: Schedule = LINEAR
    t_end: float = 1e-5

    def __post_init__(self) -> None:
        check_fields(self)
        if self.tokens_per_step is not None:
            at_least("tokens_per_step", self.tokens_per_step, 1, "None follows `steps`")
        check_t_end(self.t_end)

    def schedule_length(self, steps: int) -> int | None:
        """Return the number of groups; None if that depends on the row, see `tokens_per_step`."""
        return steps + 1 if self.grid else None if self.tokens_per_step else steps

    def init(self, canvas: Canvas) -> HitState:
        """Return times of 0; they are drawn when a row enters a block."""
        tau = torch.zeros(canvas.tokens.shape, dtype=torch.float64, device=canvas.tokens.device)
        return HitState(tau, torch.zeros_like(canvas.start))

    def enter_block(
        self, state: HitState, canvas: Canvas, clock: Clock, rng: RandomSource
    ) -> HitState:
        """Draw tau for the rows that begin a block."""
        fresh = clock.step == 0
        u = rng.uniform(Stream.TIME, canvas.tokens)
        alpha_end = self.schedule.alpha(
            torch.full((), clock.begin, dtype=torch.float64, device=u.device)
        )
        tau = self.schedule.time_of(1.0 - u * (1.0 - alpha_end))
        return HitState(
            torch.where(fresh.unsqueeze(1), tau, state.tau),
            block_total(state.total, canvas, clock),
        )

    def next_group(self, state: HitState, canvas: Canvas, clock: Clock) -> tuple[Tensor, Tensor]:
        """Return the positions of the next forward pass, bool [B, L], and its time, float64 [B]."""
        if self.grid:
            t, s = (
                clock.at(grid_time(clock.step + k, clock.steps, self.t_end), self.t_end)
                for k in (0, 1)
            )
            late = clock.step >= clock.steps
            where = canvas.eligible & ((state.tau >= s.unsqueeze(1)) | late.unsqueeze(1))
            return where, t
        quota = self.quota(state.total, clock)
        first = state.tau.masked_fill(~canvas.eligible, 0.0).amax(1)
        return top_k_positions(state.tau, canvas.eligible, quota), first

    def quota(self, total: Tensor, clock: Clock) -> Tensor:
        """Return the hits of the next group without a grid, of `total` in the block, int64 [B]."""
        if self.tokens_per_step is None:
            return even_quota(total, clock)
        return torch.full_like(total, self.tokens_per_step)

    def log_group(self, canvas: Canvas, clock: Clock, group: Tensor) -> Tensor:
        """Return the log-probability of a group (bool [B, L]) of hits, whatever their times; [B].

        Hits come in a uniformly random order.  On the grid each falls into the next interval with
        the probability (alpha_s - alpha_t) / (1 - alpha_t).
        """
        if not self.grid:
            return log_subset(group, canvas.eligible, self.quota(canvas.editable.sum(1), clock))
        t, s = (
            clock.at(grid_time(clock.step + k, clock.steps, self.t_end), self.t_end) for k in (0, 1)
        )
        now, later = self.schedule.alpha(t), self.schedule.alpha(s)
        prob = ((later - now) / (1.0 - now)).masked_fill(clock.step >= clock.steps, 1.0)
        return log_independent(group, canvas.eligible, prob)

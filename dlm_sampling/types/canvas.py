"""Define the canvas, the clock of its rows, and the outcome of one step.

Shapes everywhere: B rows, L canvas positions, V vocabulary columns, R flat positions.  Time runs
from 1 (noise) to 0 (data).
"""

from __future__ import annotations

from functools import cached_property
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from dlm_sampling.types.law import Draw
from dlm_sampling.types.pipeline import UnderWay

ClockUse = Literal["none", "begin", "times", "fixed"]
"""What a sampler does with the time at which a block begins, and with times of the caller: it has
no clock; it begins there; it follows both; its clock always begins with noise."""


class _Positions(NamedTuple):
    """Hold the tensors of a canvas."""

    tokens: Tensor  # int64 [B, L]
    unknown: Tensor  # bool [B, L], still to be written; never inferred from the mask id
    editable: Tensor  # bool [B, L], in the current block and not prompt, padding or infill context
    start: Tensor  # int64 [B], first position of the current block
    mask_token_id: int | None  # None under noise without a mask
    blocks: UnderWay | None = None  # those of a pipeline; None: the current block alone
    width: Tensor | None = None  # float64 [B], editable positions, at least 1; None: not counted


class Canvas(_Positions):
    """Hold the tokens being denoised, and the positions that may be written in the current block.

    Without a mask, a position that is not yet written holds noise, and nothing marks it: every
    position of the block is unknown until the last step of its schedule.

    What a step reads several times is computed once: its tensors must not be changed in place.
    """

    @property
    def mask(self) -> int:
        """Return the mask id, for rules that exist on masks only.

        Raises:
            ValueError: there is none.
        """
        if self.mask_token_id is None:
            raise ValueError("mask_token_id is None: this rule needs a model with a mask token.")
        return self.mask_token_id

    @cached_property
    def eligible(self) -> Tensor:
        """Return the positions that this step may reveal: unknown and in the block, bool [B, L]."""
        return self.unknown & self.editable

    @cached_property
    def left(self) -> Tensor:
        """Return how many positions this step may reveal, int64 [B]."""
        return self.eligible.sum(1)

    @property
    def unknown_fraction(self) -> Tensor:
        """Return the unknown share of the block, float64 [B]: the time on a linear schedule."""
        width = self.width
        if width is None:
            width = self.editable.sum(1, dtype=torch.float64).clamp_min(1)
        return self.left / width

    @cached_property
    def committed(self) -> Tensor:
        """Return the positions of the block that hold a token, bool [B, L]."""
        return self.editable > self.unknown  # of two bool tensors, a > b is a without b


class Clock(NamedTuple):
    """Count each row's steps in its current block; rows need not be in step with each other."""

    step: Tensor  # int64 [B], steps already taken in this block
    steps: Tensor  # int64 [B], steps planned for this block
    begin: float = 1.0  # time at which the block begins: below 1 where a draft is refined
    times: Tensor | None = None  # float64 [N + 1], falling; None: the sampler's own grid

    def at(self, t: Tensor, t_end: float) -> Tensor:
        """Return the time that stands for t of the sampler's own grid from 1 to t_end, like t.

            begin       t_end + (t - t_end) (begin - t_end) / (1 - t_end)
            times       the piecewise linear path through them, one interval per even step

        Without either t itself.  A path ends at t_end, whatever its last point.
        """
        if self.times is None and self.begin == 1.0:
            return t
        share = (1.0 - t) / (1.0 - t_end)
        if self.times is None:
            return self.begin - (self.begin - t_end) * share
        place = share * (len(self.times) - 1)
        near = place.round()
        place = torch.where((place - near).abs() < 1e-9, near, place)
        below = place.long().clamp(0, len(self.times) - 2)
        now, later = self.times[below], self.times[below + 1]
        return (now - (now - later) * (place - below)).clamp_min(t_end)

    def progress(self, k: int) -> Tensor:
        """Return the share of the steps taken k steps from now, or 1 - t of a moved clock; [B]."""
        share = ((self.step + k).double() / self.steps).clamp(max=1.0)
        if self.times is None and self.begin == 1.0:
            return share
        return 1.0 - self.at(1.0 - share, 0.0)

    @property
    def last(self) -> Tensor:
        """Return whether this is the last planned step of the block, bool [B]."""
        return self.step >= self.steps - 1


class Choice(NamedTuple):
    """Hold the positions that a step chose on masks; what is neither of the two stayed."""

    written: Tensor  # bool [B, L], masks that it wrote
    masked: Tensor  # bool [B, L], tokens that it masked again
    greedy: bool  # whether every draw of the run is an argmax, which the canvas determines


class Step(NamedTuple):
    """Hold the outcome of one step; the loop restores positions that are not editable."""

    tokens: Tensor  # int64 [B, L]
    unknown: Tensor  # bool [B, L]
    logprob: Tensor  # [B, L], log-probability of the tokens written in this step, else 0
    draw: Draw | None = None  # what was drawn in this step, for viewers; None: nothing is known

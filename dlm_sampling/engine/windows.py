"""Say which blocks of a row are written now: one after the other, or several in a pipeline.

    complete     all of it is known; complete blocks on the left are left behind
    active       all on the left are complete, or its left neighbour is known to a share of at least
                 `activate`: it writes something in every step
    semi-active  the others up to `last`: they write what is certain enough
    inactive     behind `last`

After a step the block behind `last` joins if `last` is known to a share of at least `add`, fewer
than `buffer` blocks are under way, and no end-of-text is written.  Passes compute the columns from
the first block under way to `last`; what is right of it is hidden with `causal_blocks`, so that the
canvas grows.  A cache of finished blocks stores those that were left behind, in order.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.engine.blocks import UNLIMITED, BlockPlan
from dlm_sampling.engine.state import BlockWindow, RunState
from dlm_sampling.types import Pipeline, Process, Sampler, UnderWay
from dlm_sampling.types.values import ints


@dataclass(frozen=True)
class Windows:
    """Hold the blocks of every row of the batch, and how many of them are under way.

    Fields:
        plan: the blocks of every row.
        limits: int64 [B, K], loop steps of every block.
        width: number of columns of the widest window.
        fused: the same with the block that such a window has left behind.
        line: the pipeline of the sampler, or None for one block after the other.
    """

    plan: BlockPlan
    limits: Tensor
    width: int
    fused: int
    line: Line | None = None

    @classmethod
    def of(
        cls,
        plan: BlockPlan,
        limits: Tensor,
        editable: Tensor,
        pipeline: Pipeline | None,
        stops: Tensor,
    ) -> Windows:
        """Prepare the windows of a batch; editable is bool [B, L], stops int64 [k] end a row."""
        line = None if pipeline is None else Line.of(pipeline, plan, editable, stops)
        count = plan.start.shape[1]
        together = 1 if pipeline is None else count if pipeline.buffer is None else pipeline.buffer
        number = torch.arange(count, device=editable.device)
        final = plan.number.unsqueeze(1) - 1
        ends = [torch.minimum(number + n, final).maximum(number) for n in (together - 1, together)]
        widths = torch.stack([plan.stop.gather(1, end) - plan.start for end in ends], 2)
        most = ints(widths.flatten(0, 1).amax(0)) if len(editable) else [0, 0]
        return cls(plan, limits, most[0], most[1], line)

    def at(self, rows: Tensor, block: Tensor, last: Tensor | None, editable: Tensor) -> BlockWindow:
        """Return blocks `block` to `last` (int64 [A]; None: `block`) of each row in `rows`."""
        plan, most = self.plan, self.plan.start.shape[1] - 1
        at = block.clamp(max=most)
        end = at if last is None else last.clamp(max=most)
        start, stop, steps = plan.start[rows, at], plan.stop[rows, end], plan.steps[rows, at]
        column = torch.arange(editable.shape[1], device=editable.device)
        inside = (column >= start.unsqueeze(1)) & (column < stop.unsqueeze(1)) & editable
        width = inside.sum(1, dtype=torch.float64).clamp_min(1)
        return BlockWindow(start, stop, steps, self.limits[rows, at], inside, width)

    def columns(self, state: RunState) -> Tensor | None:
        """Return the W columns from the start of each row's window, int64 [A, W].

        W is the width of the widest window; narrower ones are followed by further columns, and
        column numbers wrap around.  None if W is the whole canvas.
        """
        length = state.tokens.shape[1]
        if self.width >= length:
            return None
        column = torch.arange(self.width, device=state.tokens.device)
        return (state.window.start.unsqueeze(1) + column) % length

    def next(self, state: RunState, over: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the first and the last block of each row's next step, int64 [A] each.

        Args:
            state: the rows after a step, counters not advanced.
            over: bool [A], rows whose block ended; a pipeline reads the canvas.
        """
        if self.line is None or state.last is None:
            return torch.where(over, state.block + 1, state.block), None
        return self.line.next(state, state.last)

    def moved(self, state: RunState) -> Tensor:
        """Return the rows of a pipeline whose first or last block changes, bool [A]."""
        block, last = self.next(state, torch.zeros_like(state.may_stop))
        assert last is not None
        assert state.last is not None
        return (block != state.block) | (last != state.last)

    def under_way(self, state: RunState) -> UnderWay | None:
        """Return the blocks that the next step writes; None for one after the other."""
        return None if self.line is None else self.line.under_way(state)


@dataclass(frozen=True)
class Line:
    """Move the blocks of a pipeline.

    Fields:
        pipeline: its numbers.
        plan: the blocks of every row.
        stops: int64 [k], ids that end a row.
        number: int64 [B, L], the block of every column.
        size: float64 [B, K], positions that each block has to write, at least 1.
        latest: the unknown positions that `known` was asked for last, and its answer.
    """

    pipeline: Pipeline
    plan: BlockPlan
    stops: Tensor
    number: Tensor
    size: Tensor
    latest: list[tuple[Tensor, Tensor]] = field(
        default_factory=list[tuple[Tensor, Tensor]], compare=False, repr=False
    )

    @classmethod
    def of(cls, pipeline: Pipeline, plan: BlockPlan, editable: Tensor, stops: Tensor) -> Line:
        """Number the columns of a batch; editable is bool [B, L]."""
        length, count = editable.shape[1], plan.start.shape[1]
        used = torch.arange(count, device=editable.device) < plan.number.unsqueeze(1)
        start = torch.where(used, plan.start, length)
        column = torch.arange(length, device=editable.device).expand(editable.shape).contiguous()
        number = (torch.searchsorted(start, column, right=True) - 1).clamp_min(0)
        size = torch.zeros_like(start).scatter_add(1, number, editable.long())
        return cls(pipeline, plan, stops, number, size.clamp_min(1).double())

    def known(self, state: RunState) -> Tensor:
        """Return the known share of every block, float64 [A, K]; 1 once it is complete."""
        if self.latest and self.latest[0][0] is state.unknown:  # a step asks what the last one did
            return self.latest[0][1]
        size, open_ = self.size[state.rows], (state.unknown & state.editable).double()
        left = torch.zeros_like(size).scatter_add_(1, self.number[state.rows], open_)
        known = (size - left) / size
        self.latest[:] = [(state.unknown, known)]
        return known

    def next(self, state: RunState, last: Tensor) -> tuple[Tensor, Tensor]:
        """Return the first and the last block of the next step; `last` is that of this one."""
        known = self.known(state)
        block = torch.arange(known.shape[1], device=known.device)
        under_way = (block >= state.block.unsqueeze(1)) & (block <= last.unsqueeze(1))
        unwritten = under_way & (known < 1.0)
        first = torch.where(unwritten.any(1), unwritten.long().argmax(1), last + 1)
        ready = known.gather(1, last.unsqueeze(1)).squeeze(1) >= self.pipeline.add
        joins = ready & (last + 1 < self.plan.number[state.rows])
        if self.pipeline.buffer is not None:
            joins = joins & (last + 1 - first < self.pipeline.buffer)
        if len(self.stops):
            ends = (
                (state.tokens.unsqueeze(2) == self.stops).any(2) & state.editable & ~state.unknown
            )
            joins = joins & ~(ends.any(1) & state.may_stop)
        return first, last + joins

    def under_way(self, state: RunState) -> UnderWay:
        """Return the blocks of the next step."""
        ready = self.known(state) >= self.pipeline.activate
        before = torch.nn.functional.pad(ready[:, :-1], (1, 0), value=True)
        number = self.number[state.rows]
        return UnderWay(number, before.gather(1, number), state.block, self.size.shape[1])


def check_pipeline(
    sampler: Sampler[Any], denoiser: Denoiser, process: Process, limits: Tensor
) -> Pipeline | None:
    """Return the pipeline of a sampler, None without one.

    Raises:
        ValueError: its blocks cannot be written at the same time.
    """
    pipeline = sampler.pipeline
    if pipeline is None:
        return None
    name = type(sampler).__name__
    if process.mask_token_id is None or sampler.revises:
        raise ValueError(
            f"sampler: {name} writes several blocks at once, which is for masks and for samplers "
            "that never change a written token: nothing else tells what is known of a block."
        )
    if denoiser.canvas_length is not None:
        raise ValueError(
            f"sampler: {name} writes several blocks at once, and this network "
            f"({denoiser.family}) writes one canvas of {denoiser.canvas_length} columns after the "
            "other; use 'fast-dllm', which has the same threshold."
        )
    if bool((limits < UNLIMITED).any()):
        raise ValueError(
            f"sampler: {name} writes several blocks at once, each as long as it needs, and "
            "schedule_length plans its steps: return None there."
        )
    return pipeline

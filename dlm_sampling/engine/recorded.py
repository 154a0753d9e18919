"""Run all steps by recording one step as a CUDA graph and replaying it.

A recorded step runs all the rows that it holds, in tensors of fixed shape; rows that are done no
longer change.  Once the others fit into the next smaller bucket, a power of two, they go on in
tensors of their number (row compaction), for which a step is recorded anew: at most once for each
power of two below the batch.  A row does not depend on the others, so that the tokens are the same.

The host enqueues the next step before it reads the flags of the last one, so that the GPU does not
wait for the host.  Three things happen between replays, outside of the graph: the argmax at
positions that a finished schedule left unknown, the events for callbacks, and compaction.

With the exact block cache there are two graphs: a step whose pass computes the block of every row,
W columns, and one whose pass computes the block before it too, 2 W, for the steps in which a row
has just entered a block (with a shift, one column more).  The host reads after every step which
comes next.  The first step computes the prompts and is not recorded.  Keys and values stay there.

No GPU has run this module yet: the tests replace the graph by a stand-in that repeats the step and
refuses operations that a graph cannot record.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dlm_sampling import ops
from dlm_sampling.engine.caching import pass_widths
from dlm_sampling.engine.graph import Record, Watch
from dlm_sampling.engine.output import Listeners, SampleOutput
from dlm_sampling.engine.run import Run
from dlm_sampling.engine.state import RunState
from dlm_sampling.engine.trajectory import StepEvent, drawn_in
from dlm_sampling.errors import NoLawError
from dlm_sampling.prediction.ledger import Ledger
from dlm_sampling.prediction.shapes import FixedShapes
from dlm_sampling.types import Drawn, Step
from dlm_sampling.types.rows import copy_rows, row_tensors, select_rows, where_rows


class Shown(NamedTuple):
    """Hold the statistics of the last step for its event; all [B, L], in nats."""

    logprob: Tensor
    log_confidence: Tensor
    entropy: Tensor
    drawn: Tensor  # int8, see `StepEvent`


@dataclass(frozen=True)
class Buffers:
    """Hold the tensors that a recorded step reads and writes in place; each has A rows.

    Fields:
        state: the rows.
        done: bool [B], rows that no longer change.
        waiting: bool [B], rows whose block is over with unknown positions left, which are filled
            outside of the graph.
        lawless: bool [B], rows whose logits were not finite or banned every token.
        frozen: bool [B], rows whose adaptive sampler exceeded its limit of steps in one block.
        ended: bool [B], rows that met a stop token.
        steps: int64 [B], loop steps of the row.
        shown: statistics of the last step, or None without listeners.
    """

    state: RunState
    done: Tensor
    waiting: Tensor
    lawless: Tensor
    frozen: Tensor
    ended: Tensor
    steps: Tensor
    shown: Shown | None

    @classmethod
    def of(cls, run: Run, state: RunState, shown: bool) -> Buffers:
        """Allocate the buffers and fill them with the state before the first step."""
        done = run.plan.number == 0
        none = torch.zeros_like(done)
        blank = torch.zeros_like(state.logprob)
        return copy_rows(
            cls(
                state=state,
                done=done,
                waiting=none,
                lawless=none,
                frozen=none,
                ended=none,
                steps=torch.zeros_like(state.rows),
                shown=Shown(blank, blank, blank, blank.to(torch.int8)) if shown else None,
            )
        )

    def take(self, new: Buffers) -> None:
        """Copy the values of `new` into these tensors."""
        for there, value in zip(row_tensors(self), row_tensors(new), strict=True):
            if there is not value:
                there.copy_(value)


def run_recorded(run: Run, state: RunState, listeners: Listeners, record: Record) -> SampleOutput:
    """Record a step of all batch rows, and replay it until every row is done.

    Args:
        run: the settings that all steps share.
        state: the state of all batch rows before the first step.
        listeners: the receivers of step events.
        record: makes the CUDA graph; a test on a CPU passes a stand-in that repeats the step.

    Raises:
        ValueError: logits are NaN or +inf, or ban every token; or a part of the sampler's state
            that is no tensor changes from step to step.
        RuntimeError: the step cannot be recorded, or a row never ends.
    """
    return Recorded(run, state, listeners, record).finish()


class Recorded:
    """Drive a run with a recorded step; see `run_recorded`."""

    def __init__(self, run: Run, state: RunState, listeners: Listeners, record: Record) -> None:
        self.run, self.listeners, self.record = run, listeners, record
        self.padded = not bool(state.attention.all())
        self.widths = pass_widths(state, run.windows, run.model.denoiser.shift)
        self.buffers = Buffers.of(run, state, bool(listeners))
        self.flags = torch.zeros(5, dtype=torch.bool, device=state.tokens.device)
        self.tokens, self.logprob = state.tokens.clone(), state.logprob.clone()
        self.steps, self.ended = self.buffers.steps.clone(), self.buffers.ended.clone()
        self.graphs: dict[int | None, Callable[[], None]] = {}
        self.entering = False  # whether a row that is not done has no pass in its block yet
        self.iteration = 0

    def columns(self, state: RunState) -> Tensor:
        """Return the columns of each row's block, int64 [B, W]; all columns if W is the canvas."""
        found = self.run.columns(state)
        if found is not None:
            return found
        length = state.tokens.shape[1]
        return torch.arange(length, device=state.tokens.device).expand(len(state), length)

    def tick(self, width: int | None = None) -> None:
        """Take one step of all rows that are neither done nor waiting, without synchronising.

        Args:
            width: columns of the pass with a cache; see `CachedPasses`.
        """
        run, old = self.run, self.buffers
        live = ~(old.done | old.waiting)
        lawless = old.lawless.clone()
        shapes = FixedShapes(self.columns(old.state), live, lawless)
        noted = old.shown is not None
        predictor = run.predictor(old.state, self.padded, shapes, noted=noted)
        if predictor.cache is not None:
            predictor.cache.width = width
        with ops.without_sync():
            moved = run.move(old.state, predictor, check=self.iteration == 0)
        old = self.buffers = with_layers(old, moved.state)
        state = self.merged(live, moved.state)
        left = run.unwritten(moved)
        stuck = run.stuck(moved)
        new = replace(
            old,
            waiting=old.waiting | (live & left),
            lawless=lawless,
            frozen=old.frozen | (live & stuck),
            shown=_shown(moved.step, old.state, predictor.ledger, moved.canvas.editable),
        )
        old.take(self.completed(new, state, moved.over, live & ~left))
        failed = (old.lawless | old.frozen).any()
        entering = old.done.new_zeros(())
        if old.state.cache is not None:
            entering = (old.state.cache.opened & ~old.done).any()
        few = (~old.done).sum() <= next_bucket(len(old.done))
        self.flags.copy_(torch.stack([old.done.all(), old.waiting.any(), failed, entering, few]))

    def merged(self, live: Tensor, new: RunState) -> RunState:
        """Return the state with the rows `live` (bool [B]) of `new`.

        Raises:
            ValueError: the sampler's state has other parts than before, or a number in it changed:
                a replay repeats the number that was recorded.
        """
        try:
            return where_rows(live, new, self.buffers.state)
        except ValueError as error:
            name = type(self.run.sampler).__name__
            raise ValueError(f"cuda_graph=True: the state of {name}: {error}") from error

    def completed(
        self, buffers: Buffers, state: RunState, over: Tensor, counted: Tensor
    ) -> Buffers:
        """Return the buffers after a step: counters, block ends and finished rows updated.

        Args:
            buffers: the buffers; their `state` is replaced.
            state: the state that the sampler's step gave.
            over: bool [B], rows whose block ended.
            counted: bool [B], rows for which the step is complete.
        """
        ended, done = self.run.endings(state, over)
        return replace(
            buffers,
            state=where_rows(counted, self.run.advance_clock(state, over), state),
            done=buffers.done | (counted & done),
            ended=buffers.ended | (counted & ended),
            steps=buffers.steps + counted,
        )

    def finish(self) -> SampleOutput:
        """Record the step, then replay it until every row is done."""
        counts, lag = self.run.model.counts, 0 if self.listeners or self.widths else 1
        over, watch = bool(self.buffers.done.all()), Watch(self.flags, lag)
        while not over:
            event = self.event() if self.listeners else None
            self.step()
            over, waiting, failed, entering, few = watch.read()
            if failed:
                raise self.failure()
            if waiting:
                self.fill_unwritten()
            self.entering = entering or waiting
            if event is not None:
                self.emit(*event)
                over = bool(self.buffers.done.all())
            self.iteration += 1
            if few and not over:
                self.compact()
                watch = Watch(self.flags, lag)
        self.store()
        return SampleOutput(
            tokens=self.tokens,
            logprob=self.logprob,
            nfe=counts.nfe,
            work=counts.work,
            shared=counts.shared,
            steps=self.steps,
            seeds=self.run.seeds,
            ended=self.ended,
            trajectory=self.listeners.trajectory,
            cache=None if self.run.meter is None else self.run.meter.report(),
        )

    def compact(self) -> None:
        """Drop the rows that are done; the others go on in tensors of their number."""
        if bool((self.buffers.lawless | self.buffers.frozen).any()):
            raise self.failure()  # its row may be among those that are dropped
        self.store()
        kept = (~self.buffers.done).nonzero().squeeze(1)
        self.buffers = copy_rows(select_rows(self.buffers, kept))
        self.graphs.clear()

    def store(self) -> None:
        """Keep the results of all rows held now."""
        buffers, state = self.buffers, self.buffers.state
        cut = buffers.ended.unsqueeze(1) & state.unknown
        self.tokens[state.rows] = state.tokens.masked_fill(cut, self.run.filler)
        self.logprob[state.rows] = state.logprob
        self.steps[state.rows], self.ended[state.rows] = buffers.steps, buffers.ended

    def step(self) -> None:
        """Take one step: replay its graph, which is recorded when it is first needed."""
        width = None
        if self.widths is not None:
            if not self.iteration:
                self.tick(self.widths.first)
                return
            width = self.widths.fused if self.entering else self.widths.block
        if width not in self.graphs:
            self.graphs[width] = self.record_tick(width)
        self.graphs[width]()

    def record_tick(self, width: int | None) -> Callable[[], None]:
        """Record `tick`; return the replay function, with buffers and counts restored.

        Stored keys and values are not: what the steps of a recording have stored of unfinished
        blocks is computed again before it is read.
        """
        small = with_layers(self.buffers, None)
        written: tuple[Any, ...] = (small, self.flags, self.run.model.counts)
        kept = copy_rows(written)
        replay = self.record(partial(self.tick, width))
        for there, value in zip(row_tensors(written), row_tensors(kept), strict=True):
            there.copy_(value)
        return replay

    def fill_unwritten(self) -> None:
        """Fill the unknown positions of waiting rows outside of the graph, and end their blocks."""
        run, old = self.run, self.buffers
        rows = old.waiting.clone()
        state, filled = run.fill(
            old.state, run.canvas(old.state), rows, run.predictor(old.state, self.padded)
        )
        shown = old.shown
        if shown is not None:
            late, draw = old.state.unknown & ~filled.unknown, filled.draw
            assert draw is not None
            shown = Shown(
                shown.logprob + filled.logprob,
                torch.where(late, draw.log_confidence, shown.log_confidence),
                torch.where(late, draw.entropy, shown.entropy),
                shown.drawn.masked_fill(late, Drawn.ARGMAX),
            )
        new = replace(old, waiting=old.waiting & ~rows, shown=shown)
        old.take(self.completed(new, where_rows(rows, state, old.state), rows, rows))

    def event(self) -> tuple[StepEvent, Tensor]:
        """Return an event of the rows not yet done, before the next step, and their places."""
        buffers, counts = self.buffers, self.run.model.counts
        at = (~buffers.done).nonzero().squeeze(1)
        state = buffers.state
        rows, nothing = state.rows[at], torch.zeros_like(at, dtype=torch.bool)
        tokens, unknown = state.tokens[at], state.unknown[at]
        event = StepEvent(
            iteration=self.iteration,
            rows=rows,
            before=tokens,
            tokens=tokens,
            unknown=unknown,
            written=unknown,
            block=state.block[at],
            last=None if state.last is None else state.last[at],
            step=state.step[at],
            nfe=counts.nfe[rows],
            forwarded=nothing,
            logprob=state.logprob[at],
            log_confidence=None,
            entropy=None,
            final=nothing,
            horizon=state.window.stop[at] if self.run.request.blocks.causal else None,
        )
        return event, at

    def emit(self, event: StepEvent, at: Tensor) -> None:
        """Complete the event of the rows at the places `at`, and pass it to the listeners."""
        rows, before, buffers = event.rows, event.before, self.buffers
        counts, shown = self.run.model.counts, self.buffers.shown
        assert shown is not None
        tokens, unknown = buffers.state.tokens[at], buffers.state.unknown[at]
        nfe = counts.nfe[rows]
        event = replace(
            event, tokens=tokens, unknown=unknown, nfe=nfe, forwarded=nfe > event.nfe,
            written=(tokens != before) | (event.unknown & ~unknown), logprob=shown.logprob[at],
            log_confidence=shown.log_confidence[at], entropy=shown.entropy[at],
            final=buffers.done[at], time=counts.model_time[rows], drawn=shown.drawn[at],
        )  # fmt: skip
        for listener in self.listeners.all:
            listener(event)

    def failure(self) -> Exception:
        """Return the error for rows that are frozen or whose logits define no law."""
        buffers = self.buffers
        if bool(buffers.frozen.any()):
            return self.run.endless(buffers.state.tokens.shape[1])
        row = int(buffers.state.rows[buffers.lawless.long().argmax()])
        return NoLawError(
            f"row {row}: the logits hold NaN, +inf, or no token that may be drawn. Run it without "
            "cuda_graph to learn where, and check the model's output."
        )


def with_layers(buffers: Buffers, state: RunState | None) -> Buffers:
    """Return the buffers with the stored keys and values of a state, in place; None: with none."""
    cache = buffers.state.cache
    if cache is None:
        return buffers
    found = None if state is None else state.cache
    layers = () if found is None else found.layers
    return replace(buffers, state=replace(buffers.state, cache=replace(cache, layers=layers)))


def next_bucket(rows: int) -> int:
    """Return the largest power of two below a number of rows, 0 below 2."""
    return (1 << (rows - 1).bit_length()) // 2 if rows > 1 else 0


def _shown(step: Step, before: RunState, ledger: Ledger | None, editable: Tensor) -> Shown | None:
    """Return the statistics of a step, or None if nobody listens.

    Args:
        step: the step.
        before: the state before it.
        ledger: the draws of the step.
        editable: bool [B, L], its block.
    """
    written = ((step.tokens != before.tokens) | (before.unknown & ~step.unknown)) & editable
    drawn = drawn_in(step, None, ledger, written)
    if drawn is None:
        return None
    blank, draw = torch.zeros_like(step.logprob), step.draw
    return Shown(
        step.logprob.masked_fill(~editable, 0.0),
        blank if draw is None else draw.log_confidence,
        blank if draw is None else draw.entropy,
        drawn,
    )

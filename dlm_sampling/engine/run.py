"""Advance the active rows by one step: the rules that both drivers of the loop share.

Blocks, per-row step counters, stopping and end-of-text live here; a sampler knows none of them.
Every function takes a `RunState` and returns the next one; none changes a state in place.
`stepwise` calls these functions on the active rows, `recorded` records them once for all batch
rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from dlm_sampling import ops
from dlm_sampling.caches import AnyPolicy
from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.engine.blocks import UNLIMITED, BlockPlan, step_limits
from dlm_sampling.engine.budget import Budget
from dlm_sampling.engine.caching import cached_passes, choose_cache, meter_of, with_cache
from dlm_sampling.engine.constraint import RunConstraint
from dlm_sampling.engine.drafts import grid_of, started
from dlm_sampling.engine.fit import check_asked, check_fit, check_guidance, check_law
from dlm_sampling.engine.request import Canvases, IsComplete, Request
from dlm_sampling.engine.state import Moved, RunState, apply
from dlm_sampling.engine.windows import Windows, check_pipeline
from dlm_sampling.prediction.audit import Meter
from dlm_sampling.prediction.ledger import Ledger
from dlm_sampling.prediction.model import Counts, RunModel, full_law
from dlm_sampling.prediction.predictor import Predictor
from dlm_sampling.prediction.rows import Beside, PassRows
from dlm_sampling.prediction.shapes import FREE, Shapes
from dlm_sampling.samplers.base import reveal
from dlm_sampling.samplers.contract import (
    check_answer,
    check_draw,
    check_finished,
    check_state,
    check_step,
)
from dlm_sampling.types import Canvas, Clock, Process, Sampler, Step
from dlm_sampling.types.rows import with_parts
from dlm_sampling.types.values import ints


@dataclass(frozen=True)
class Run:
    """Hold the settings that all steps of a run share.

    Fields:
        request: the request that the run was made from.
        sampler: the sampler.
        whole_schedule: whether a block with planned steps runs all of them, even if every position
            is written earlier.
        process: the noise process of the canvas.
        plan: the blocks of every row of the batch.
        windows: which of them are written now.
        adaptive: whether any block has the limit `UNLIMITED`: as many loop steps as it needs.
        model: the denoiser, the token law, guidance, and the counts of passes.
        stops: int64 [k], ids that end a row.
        seeds: one seed per row of the batch.
        filler: id written at the unknown positions of a row that ended before its last block.
        complete: tells of each row whether its text is complete; () if none is asked.
        cache: which columns a pass computes, or None for all.
        meter: audits the cache, or None without one.
        times: float64 [N + 1], the times of every block, or None for the sampler's own.
        constraint: the rule that the texts satisfy, or None.
        budget: the passes that rows may take, or None.
    """

    request: Request
    sampler: Sampler[Any]
    whole_schedule: bool
    process: Process
    plan: BlockPlan
    windows: Windows
    adaptive: bool
    model: RunModel
    stops: Tensor
    seeds: tuple[int, ...]
    filler: int
    complete: tuple[IsComplete | None, ...]
    cache: AnyPolicy | None = None
    meter: Meter | None = None
    times: Tensor | None = None
    constraint: RunConstraint | None = None
    budget: Budget | None = None

    @classmethod
    def of(cls, denoiser: Denoiser, request: Request, canvases: Canvases, plan: BlockPlan) -> Run:
        """Check that sampler and denoiser fit, and derive the settings of the run."""
        sampler, device = request.sampler, canvases.tokens.device
        process = check_fit(denoiser, sampler, request.guidance_scale)
        law = sampler.law if request.law is None else request.law
        check_law(denoiser, law)
        check_guidance(denoiser, sampler, request.guidance, canvases)
        check_asked(denoiser, request, process)
        model = RunModel(
            denoiser,
            full_law(law, denoiser, suppress_mask=request.suppress_mask),
            Counts.zero(len(canvases.tokens), device),
            request.guidance_scale,
            request.every_step,
            sampler.schedule,
            request.guidance,
        )
        pad = denoiser.pad_token_id
        stops = torch.tensor(request.stop_token_ids, dtype=torch.int64, device=device)
        cache = choose_cache(denoiser, request, plan, canvases)
        limits = step_limits(sampler, plan.steps)
        pipeline = check_pipeline(sampler, denoiser, process, limits)
        check_answer(sampler, "patience", sampler.patience(canvases.tokens.shape[1]))
        return cls(
            request=request,
            sampler=sampler,
            whole_schedule=sampler.revises or request.every_step,
            process=process,
            plan=plan,
            windows=Windows.of(plan, limits, canvases.editable, pipeline, stops),
            adaptive=bool((limits == UNLIMITED).any()),
            model=model,
            stops=stops,
            seeds=canvases.seeds,
            filler=pad if pad is not None else (*request.stop_token_ids, 0)[0],
            complete=canvases.complete,
            cache=cache,
            meter=meter_of(cache, request),
            times=grid_of(request.times, device),
            constraint=RunConstraint.of(request, canvases, process),
            budget=Budget.of(request, plan),
        )

    @cached_property
    def splits_rows(self) -> bool:
        """Return whether passes are told which tokens the run does not write."""
        guided = self.request.guidance or self.request.guidance_scale
        return bool(guided or self.model.law.presence_penalty)

    @cached_property
    def step(self) -> Callable[..., Any]:
        """Return the function that takes a step: the sampler's own, or a guidance's choice."""
        guide, own = self.request.guidance, self.sampler
        return own.step if guide is None else partial(guide.step, own)

    @cached_property
    def counts_beside(self) -> bool:
        """Return whether other blocks have a part in the time that the network is told."""
        # Not without a mask: conversions of predictions take the level of the block.
        denoiser = self.model.denoiser
        told = denoiser.time_conditioned and denoiser.process.name == "absorbing"
        return told and not self.request.blocks.causal and self.plan.start.shape[1] > 1

    def begin(self, canvases: Canvases) -> RunState:
        """Return the state of all batch rows before the first step, noise at editable positions."""
        device, editable = canvases.tokens.device, canvases.editable
        rows = torch.arange(len(editable), device=device)
        zero = torch.zeros_like(rows)
        origin = canvases.attention.long().argmax(1)
        rng = replace(ops.Rng.from_seeds(canvases.seeds, device=device), origin=origin)
        mark = self.request.watermark
        rng = rng if mark is None else mark.marked(rng, editable)
        noise = self.process.prior(canvases.tokens, rng, self.model.denoiser.vocab_size)
        tokens, unknown = torch.where(editable, noise, canvases.tokens), editable.clone()
        if self.request.start is not None:
            tokens, unknown = started(
                self.process, self.sampler, self.request.start, canvases.tokens, editable, noise,
                rng, self.model.denoiser,
            )  # fmt: skip
        state = RunState(
            rows=rows,
            tokens=tokens,
            unknown=unknown,
            logprob=torch.zeros(editable.shape, dtype=torch.float32, device=device),
            editable=editable,
            attention=canvases.attention,
            may_stop=canvases.may_stop.to(device),
            block=zero,
            step=zero,
            window=self.windows.at(rows, zero, None, editable),
            rng=rng,
            sampler=None,
            carry=self.model.first_carries(),
            last=None if self.windows.line is None else zero,
        )
        canvas = self.canvas(state)
        first = replace(state, sampler=self.sampler.init(canvas))
        check_state(self.sampler, "init", first.sampler, canvas)
        return first if self.cache is None else with_cache(first, self.cache)

    def canvas(self, state: RunState) -> Canvas:
        """Return the canvas for the sampler: only the current block is editable."""
        window, mask = state.window, self.process.mask_token_id
        return Canvas(
            state.tokens, state.unknown, window.editable, window.start, mask,
            self.windows.under_way(state), window.width,
        )  # fmt: skip

    def clock(self, state: RunState) -> Clock:
        """Return the clock of the next step."""
        return Clock(state.step, state.window.steps, self.request.begin, self.times)

    @cached_property
    def looks_ahead(self) -> bool:
        """Return whether predictions are read outside of the current block."""
        return self.sampler.looks_ahead or self.request.reads_ahead is not None

    def columns(self, state: RunState) -> Tensor | None:
        """Return the columns that a pass is asked for, see `Windows.columns`; None: all."""
        return None if self.looks_ahead else self.windows.columns(state)

    def predictor(
        self,
        state: RunState,
        padded: bool,
        shapes: Shapes = FREE,
        *,
        noted: bool = False,
        shares: bool = False,
    ) -> Predictor:
        """Return the predictor of this step.

        Args:
            state: the active rows before the step.
            padded: whether any of them has padding.
            shapes: the layout of positions and passes.
            noted: whether it is noted how every token is drawn, which the event of the step tells.
            shares: whether rows that are alike share a pass.
        """
        blocks = state.window.editable, state.unknown, state.editable
        rows = PassRows(
            index=state.rows,
            attention=state.attention if padded else None,
            given=~state.editable if self.splits_rows else None,
            horizon=state.window.stop if self.request.blocks.causal else None,
            columns=self.columns(state),
            beside=Beside.of(*blocks) if self.counts_beside else None,
        )
        ledger = Ledger.of(state.tokens) if noted else None
        cache = None
        if self.meter is not None:
            cache = cached_passes(state, self.meter, self.request.blocks.causal)
        constraint = None if self.constraint is None else self.constraint.in_step(state)
        return Predictor(self.model, rows, state.carry, shapes, ledger, cache, constraint, shares)

    def move(self, state: RunState, predictor: Predictor, *, check: bool) -> Moved:
        """Call the sampler's step, and undo its changes outside of the current block.

        Shapes and dtypes of the returned step are read every time.  With `check`, its state is
        looked through too, once per run.
        """
        canvas = self.canvas(state)
        clock = self.clock(state)
        try:
            taken = self.step(state.sampler, canvas, clock, predictor, state.rng)
        except IndexError as error:
            error.add_note(f"Raised in {type(self.sampler).__name__}.step.")
            raise
        if check:
            check_step(self.sampler, taken, canvas)
        try:
            sampler_state, step = taken
            shape = canvas.tokens.shape
            # A wrong shape or dtype could be broadcast or cast in silence; reading them is free.
            if not (
                step.tokens.shape == step.unknown.shape == step.logprob.shape == shape
                and step.tokens.dtype is torch.int64
                and step.unknown.dtype is torch.bool
                and step.logprob.dtype.is_floating_point
            ):
                check_step(self.sampler, taken, canvas)
            if predictor.ledger is not None:  # somebody listens
                check_draw(self.sampler, step, canvas)
            if predictor.constraint is not None:
                step = predictor.constraint.settled(step, canvas)
            state = apply(
                state, canvas, step, sampler=sampler_state, carry=predictor.carries,
                cache=None if predictor.cache is None else predictor.cache.cache,
            )  # fmt: skip
        except Exception:
            check_step(self.sampler, taken, canvas)
            raise
        return Moved(state, canvas, step, self.block_over(state, canvas, clock))

    def block_over(self, state: RunState, canvas: Canvas, clock: Clock) -> Tensor:
        """Return the rows whose block ends with this step, bool [A]; a sampler may add a rule.

        In a pipeline those whose first or last block changes.
        """
        if self.windows.line is not None:
            return self.windows.moved(state)
        limit = state.window.limit
        spent = state.step + 1 >= limit
        left = (state.unknown & canvas.editable).any(1)
        after = canvas._replace(tokens=state.tokens, unknown=state.unknown)
        finished = self.sampler.finished(state.sampler, after, clock)
        if finished is not None:
            if not (
                isinstance(finished, Tensor)  # pyright: ignore[reportUnnecessaryIsInstance]
                and finished.dtype is torch.bool
                and finished.shape == spent.shape
            ):
                check_finished(self.sampler, finished, len(spent))
            spent = finished | spent
            return spent if self.whole_schedule else left <= spent
        written = left <= spent  # of two bool tensors, a <= b is "b, or not a"
        return torch.where(limit < UNLIMITED, spent, written) if self.whole_schedule else written

    def stuck(self, moved: Moved) -> Tensor:
        """Return the rows whose adaptive sampler took too many steps in one block, bool [A]."""
        state = moved.state
        bound = self.sampler.patience(state.tokens.shape[1])
        masked = (state.unknown & moved.canvas.editable).any(1)
        return (state.step > bound) & ~moved.over & masked & (state.window.limit == UNLIMITED)

    def endless(self, length: int) -> RuntimeError:
        """Return the error for stuck rows of a canvas of `length` columns."""
        bound = self.sampler.patience(length)
        return RuntimeError(
            f"{type(self.sampler).__name__} made {bound} steps in one block without ending it: "
            "an adaptive sampler must write at least one position per step."
        )

    def unwritten(self, moved: Moved) -> Tensor:
        """Return the rows whose schedule is over with positions left to write, bool [A]."""
        left = (moved.state.unknown & moved.canvas.editable).any(1) & moved.over
        return left if self.windows.line is None else torch.zeros_like(left)  # it has no schedule

    def fill(
        self, state: RunState, canvas: Canvas, rows: Tensor, predictor: Predictor
    ) -> tuple[RunState, Step]:
        """Write the argmax at positions that a finished schedule left unknown.

        The prediction is always lazy: otherwise rows that need no fill would be charged a forward
        pass and advance their carried state.  Returns the new state and the fill as a `Step`.
        """
        canvas = canvas._replace(tokens=state.tokens, unknown=state.unknown)
        if predictor.constraint is not None:
            predictor.constraint = predictor.constraint.after(state.tokens, state.unknown)
        where = canvas.eligible & rows.unsqueeze(1)
        t = self.sampler.schedule.time_of(1.0 - canvas.unknown_fraction)
        prediction = predictor.lazily(state.tokens, t)
        filled = reveal(canvas, where, prediction.draw(where, state.rng, greedy=rows, sub=15))
        kept = None if predictor.cache is None else predictor.cache.cache
        return apply(state, canvas, filled, carry=predictor.carries, cache=kept), filled

    def endings(self, state: RunState, over: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rows that end at a stop token, and the rows that are done, bool [A] each."""
        ended, (block, _) = self.stopped(state, over), self.windows.next(state, over)
        return ended, ended | (over & (block >= self.plan.number[state.rows]))

    def stopped(self, state: RunState, over: Tensor) -> Tensor:
        """Return the rows with a stop token and no unknown position to its left, bool [A].

        A sampler that revises may still change the stop token until the block is over, so its rows
        stop only with a finished block.
        """
        if not len(self.stops):
            return torch.zeros_like(over)
        stops = (state.tokens.unsqueeze(2) == self.stops).any(2)
        is_stop = stops & state.editable & ~state.unknown
        known_left = (state.unknown & state.editable).long().cumsum(1) == 0
        found = (is_stop & known_left).any(1) & state.may_stop
        return found & over if self.sampler.revises else found

    def completed(self, state: RunState, over: Tensor) -> Tensor:
        """Return the rows of `over` whose text is complete with this block, bool [A].

        It asks the host, row by row; a recorded step does without.
        """
        found = torch.zeros_like(over)
        block, _ = self.windows.next(state, over)
        known, left = self.plan.stop[state.rows, block - 1], over & (block > state.block)
        for i in ints(left.nonzero().flatten()) if self.complete else ():
            is_complete = self.complete[int(state.rows[i])]
            if is_complete is not None:
                found[i] = is_complete(state.tokens[i], int(known[i]))
        return found

    def advance_clock(self, state: RunState, over: Tensor) -> RunState:
        """Advance the step counters; rows of `over` (bool [A]) enter their next block."""
        block, last = self.windows.next(state, over)
        return replace(
            self.advance_step(state),
            block=block,
            last=last,
            step=torch.where(block > state.block, 0, state.step + 1),
            window=self.windows.at(state.rows, block, last, state.editable),
            carry=tuple(carry.reset(over) for carry in state.carry),
            cache=None if state.cache is None else state.cache.enter(over),
        )

    def advance_step(self, state: RunState) -> RunState:
        """Advance the step counters of rows that stay in their block."""
        return with_parts(state, step=state.step + 1, rng=state.rng.with_step(state.rng.step + 1))

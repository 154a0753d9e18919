"""One run of the loop: the tensors of the active rows, and the results of all rows.

Blocks, per-row clocks, NFE, stopping, compaction of finished rows, end-of-text and events live
here; a sampler knows none of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from dlm_sampling import ops
from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.engine.blocks import BlockPlan
from dlm_sampling.engine.checks import Inputs
from dlm_sampling.engine.fit import check_fit
from dlm_sampling.engine.options import RunOptions, SampleOutput
from dlm_sampling.engine.trajectory import StepEvent, Trajectory
from dlm_sampling.prediction.lazy import LazyPrediction
from dlm_sampling.prediction.predictor import Predictor, full_law
from dlm_sampling.samplers.base import reveal
from dlm_sampling.samplers.contract import check_step
from dlm_sampling.types import Canvas, Clock, Sampler, Step

_UNLIMITED = 2**62


def _take(state: Any, keep: Tensor) -> Any:
    """Index the leading dimension of every tensor of a sampler's state."""
    if isinstance(state, Tensor):
        return state[keep]
    if isinstance(state, tuple):
        parts = [_take(part, keep) for part in state]  # pyright: ignore[reportUnknownVariableType]
        return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)  # pyright: ignore
    return state


class Run:
    """One call of `sample`: active rows ([A, ...]) and the results of all rows ([B, ...])."""

    def __init__(
        self,
        denoiser: Denoiser,
        sampler: Sampler[Any],
        inputs: Inputs,
        plan: BlockPlan,
        seeds: Sequence[int],
        options: RunOptions,
    ) -> None:
        """Everything before the first step."""
        batch, device = len(inputs.tokens), inputs.tokens.device
        process = check_fit(denoiser, sampler, options.guidance_scale)
        self.mask_token_id = process.mask_token_id
        self.sampler, self.plan, self.options = sampler, plan, options
        self.limits = _step_limits(sampler, plan.steps)
        law, stops, pad = options.law, options.stop_token_ids, denoiser.pad_token_id
        self.stops = torch.tensor(stops, dtype=torch.int64, device=device)
        self.filler = pad if pad is not None else stops[0] if stops else 0
        law = full_law(law, denoiser, suppress_mask=options.suppress_mask)
        self.editable = inputs.editable
        self.unknown = inputs.editable.clone()
        self.block: Tensor = torch.zeros(batch, dtype=torch.int64, device=device)
        self.step: Tensor = torch.zeros_like(self.block)
        self.iteration: int = 0
        rows = torch.arange(batch, device=device)
        origin = inputs.attention.long().argmax(1)
        self.rng = replace(ops.Rng.from_seeds(seeds, device=device), origin=origin)
        noise = process.prior(inputs.tokens, self.rng, denoiser.vocab_size)
        self.tokens: Tensor = torch.where(inputs.editable, noise, inputs.tokens)
        self.predictor: Predictor = Predictor(
            denoiser,
            law,
            inputs.attention,
            rows,
            torch.zeros_like(rows),
            ~inputs.editable,
            options.guidance_scale,
            options.every_step,
            sampler.schedule,
        )
        self.logprob = torch.zeros(inputs.tokens.shape, device=device)
        self.out_tokens, self.out_logprob = self.tokens.clone(), self.logprob.clone()
        self.out_steps = torch.zeros_like(rows)
        self.out_ended = torch.zeros_like(rows, dtype=torch.bool)
        self.trajectory: Trajectory | None = None
        if options.return_trajectory:
            self.trajectory = Trajectory(
                self.tokens.clone(), inputs.editable, attention_mask=inputs.attention
            )
        self.state = sampler.init(self.canvas())

    @property
    def rows(self) -> Tensor:
        """Index of the active rows in the batch, int64 [A]."""
        return self.predictor.rows

    def canvas(self) -> Canvas:
        """What the sampler sees: only the current block is editable."""
        column = torch.arange(self.tokens.shape[1], device=self.tokens.device)
        start, stop = self.of_block(self.plan.start), self.of_block(self.plan.stop)
        inside = (column >= start.unsqueeze(1)) & (column < stop.unsqueeze(1))
        editable = self.editable & inside
        return Canvas(self.tokens, self.unknown, editable, start, self.mask_token_id)

    def of_block(self, table: Tensor) -> Tensor:
        """The entry of each active row's current block in a table of the plan, [B, K] -> [A]."""
        block = self.block.clamp(max=table.shape[1] - 1).unsqueeze(1)
        return table[self.rows].gather(1, block).squeeze(1)

    def finish(self) -> SampleOutput:
        """Run until no row is left."""
        self.retire(self.plan.number == 0, torch.zeros_like(self.out_ended))
        while len(self.rows):
            self.advance()
        return SampleOutput(
            self.out_tokens,
            self.out_logprob,
            self.predictor.nfe,
            self.out_steps,
            self.out_ended,
            self.trajectory,
        )

    def advance(self) -> None:
        """One step of every active row."""
        before, nfe_before = self.tokens, self.predictor.nfe[self.rows]
        canvas, step, over = self.move()
        left = (self.unknown & canvas.editable).any(1) & over
        if bool(left.any()):
            step = self.fill(canvas, left, step)
        if bool(self.stuck(canvas, over).any()):
            raise self.endless()
        ended, done = self.endings(over)
        self.publish(canvas, step, before, nfe_before, done)
        self.predictor.reset(over)
        self.turn(over)
        self.iteration += 1
        self.out_steps[self.rows] += 1
        self.retire(done, ended)

    def move(self) -> tuple[Canvas, Step, Tensor]:
        """The sampler's step, taken over: the canvas before it, and whose block it ended."""
        canvas = self.canvas()
        clock = Clock(self.step, self.of_block(self.plan.steps))
        if self.options.causal_blocks:
            self.predictor.horizon = self.of_block(self.plan.stop)
        moved = self.sampler.step(self.state, canvas, clock, self.predictor, self.rng)
        if self.iteration == 0:
            check_step(self.sampler, moved, canvas)
        self.state, step = moved
        self.apply(canvas, step)
        return canvas, step, self.block_over(canvas, clock)

    def endings(self, over: Tensor) -> tuple[Tensor, Tensor]:
        """Rows that stop at an end-of-text, and rows that are done, bool [A] each."""
        ended = self.stopped(over)
        return ended, ended | (over & (self.block + 1 >= self.plan.number[self.rows]))

    def turn(self, over: Tensor) -> None:
        """Count the step; rows of `over` (bool [A]) enter their next block."""
        self.block = torch.where(over, self.block + 1, self.block)
        self.step = torch.where(over, 0, self.step + 1)
        self.rng = self.rng.with_step(self.rng.step + 1)

    def block_over(self, canvas: Canvas, clock: Clock) -> Tensor:
        """Rows whose block ends with this step, bool [A]; by the sampler's own rule if any."""
        limit, every_step = self.of_block(self.limits), self.options.every_step
        spent = self.step + 1 >= limit
        written = ~(self.unknown & canvas.editable).any(1)
        after = canvas._replace(tokens=self.tokens, unknown=self.unknown)
        finished = self.sampler.finished(self.state, after, clock)
        if finished is not None:
            early = written & (not self.sampler.revises and not every_step)
            return finished | spent | early
        whole_schedule = (limit < _UNLIMITED) & (self.sampler.revises or every_step)
        return torch.where(whole_schedule, spent, written | spent)

    def stuck(self, canvas: Canvas, over: Tensor) -> Tensor:
        """Rows whose adaptive sampler writes nothing for too long, bool [A]."""
        bound = self.sampler.patience(self.tokens.shape[1])
        masked = (self.unknown & canvas.editable).any(1)
        adaptive = self.of_block(self.limits) == _UNLIMITED
        return (self.step > bound) & ~over & masked & adaptive

    def endless(self) -> RuntimeError:
        """The error for such rows: they would never end."""
        bound = self.sampler.patience(self.tokens.shape[1])
        return RuntimeError(
            f"{type(self.sampler).__name__} made {bound} steps in one block without ending it: "
            "an adaptive sampler must write at least one position per step."
        )

    def apply(self, canvas: Canvas, step: Step) -> None:
        """Take over what the step wrote inside the block; everything else is restored."""
        changed = (step.tokens != self.tokens) | (canvas.unknown & ~step.unknown)
        self.tokens = torch.where(canvas.editable, step.tokens, self.tokens)
        self.unknown = torch.where(canvas.editable, step.unknown, self.unknown)
        self.logprob = torch.where(
            changed & canvas.editable, step.logprob.to(self.logprob.dtype), self.logprob
        )

    def fill(self, canvas: Canvas, rows: Tensor, step: Step) -> Step:
        """Write the argmax at what a finished schedule left unknown: no mask survives a block."""
        canvas = canvas._replace(tokens=self.tokens, unknown=self.unknown)
        where = canvas.eligible & rows.unsqueeze(1)
        # Lazy whatever the run: a row must not pay for, nor remember, what another one needs.
        draw = LazyPrediction(self.predictor, self.tokens, canvas.unknown_fraction).draw(
            where, self.rng, greedy=rows, sub=15
        )
        filled = reveal(canvas, where, draw)
        self.apply(canvas, filled)
        return filled._replace(logprob=step.logprob + filled.logprob)

    def stopped(self, over: Tensor) -> Tensor:
        """Rows that hold a stop token with nothing unknown to its left, bool [A].

        Samplers that revise may still change it, so there only a finished block counts.
        """
        if not self.options.stop_token_ids:
            return torch.zeros_like(over)
        stops = (self.tokens.unsqueeze(2) == self.stops).any(2)
        is_stop = stops & self.editable & ~self.unknown
        known_left = (self.unknown & self.editable).long().cumsum(1) == 0
        found = (is_stop & known_left).any(1)
        return found & over if self.sampler.revises else found

    def publish(
        self, canvas: Canvas, step: Step, before: Tensor, nfe_before: Tensor, done: Tensor
    ) -> None:
        """Build the step's event for the callback and the trajectory."""
        if self.options.callback is None and self.trajectory is None:
            return
        nfe = self.predictor.nfe[self.rows]
        event = StepEvent(
            iteration=self.iteration,
            rows=self.rows,
            before=before,
            tokens=self.tokens,
            unknown=self.unknown,
            written=(self.tokens != before) | (canvas.unknown & ~self.unknown),
            block=self.block,
            step=self.step,
            nfe=nfe,
            forwarded=nfe > nfe_before,
            logprob=step.logprob.masked_fill(~canvas.editable, 0.0),
            log_confidence=step.log_confidence,
            entropy=step.entropy,
            final=done,
            horizon=self.predictor.horizon,
            time=self.predictor.told[self.rows],
        )
        self.pass_on(event)

    def pass_on(self, event: StepEvent) -> None:
        """Give an event to who listens."""
        if self.trajectory is not None:
            self.trajectory.events.append(event)
        if self.options.callback is not None:
            self.options.callback(event)

    def retire(self, done: Tensor, ended: Tensor) -> None:
        """Store the rows that are done and drop them, so that they cost no further forward pass."""
        if not bool(done.any()):
            return
        rows = self.rows[done]
        if bool(ended.any()):
            self.tokens = torch.where(ended.unsqueeze(1) & self.unknown, self.filler, self.tokens)
        self.out_tokens[rows], self.out_logprob[rows] = self.tokens[done], self.logprob[done]
        self.out_ended[rows] = ended[done]
        keep = ~done
        self.predictor.select(keep)
        self.tokens, self.unknown, self.editable = (
            self.tokens[keep],
            self.unknown[keep],
            self.editable[keep],
        )
        self.logprob, self.block, self.step = self.logprob[keep], self.block[keep], self.step[keep]
        self.state, self.rng = _take(self.state, keep), self.rng.select(keep)


def _step_limits(sampler: Sampler[Any], steps: Tensor) -> Tensor:
    """The loop steps of every block, int64 [B, K]; very large where the sampler is adaptive."""
    limits = torch.empty_like(steps)
    for planned in cast("list[int]", steps.unique().tolist()):
        length = sampler.schedule_length(planned)
        limits[steps == planned] = _UNLIMITED if length is None else length
    return limits

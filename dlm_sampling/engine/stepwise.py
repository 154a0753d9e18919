"""Drives a run step by step: rows that are done leave it, and cost no further forward pass."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from dlm_sampling.engine.request import Listeners, SampleOutput
from dlm_sampling.engine.run import Moved, Run, seen_of
from dlm_sampling.engine.state import RunState
from dlm_sampling.engine.trajectory import StepEvent
from dlm_sampling.types import Step
from dlm_sampling.types.rows import select_rows


def run_stepwise(run: Run, state: RunState, listeners: Listeners) -> SampleOutput:
    """Step all rows until none is left.

    Args:
        run: what holds for all steps.
        state: the rows before the first step.
        listeners: who is told of each step.
    """
    driver = Stepwise(run, state, listeners)
    driver.retire(run.plan.number == 0, torch.zeros_like(driver.ended))
    while len(driver.state):
        driver.advance()
    return driver.output()


class Stepwise:
    """The active rows of a run, and the results of the rows that are done.

    Args:
        run: what holds for all steps.
        state: the rows before the first step; all rows of the batch, in order.
        listeners: who is told of each step.
    """

    def __init__(self, run: Run, state: RunState, listeners: Listeners) -> None:
        self.run, self.state, self.listeners = run, state, listeners
        self.padded = not bool(state.attention.all())
        self.tokens, self.logprob = state.tokens.clone(), state.logprob.clone()
        self.steps = torch.zeros_like(state.rows)
        self.ended = torch.zeros_like(state.rows, dtype=torch.bool)
        self.iteration = 0

    def advance(self) -> None:
        """Take one step of every active row."""
        run, before = self.run, self.state
        predictor = run.predictor(before, self.padded)
        passes_before = run.model.counts.nfe[before.rows] if self.listeners else None
        moved = run.move(before, predictor, check=self.iteration == 0)
        state, filled = moved.state, None
        anew = bool(moved.over.any())
        if anew:
            left = (state.unknown & moved.canvas.editable).any(1) & moved.over
            if bool(left.any()):
                state, filled = run.fill(state, moved.canvas, left, predictor)
        if run.adaptive and bool(run.stuck(moved).any()):
            raise run.endless(state.tokens.shape[1])
        ended, done = run.endings(state, moved.over)
        if passes_before is not None:
            self.publish(moved, state, filled, before, passes_before, done)
        self.state = run.turn(state, moved.over) if anew else run.count(state)
        self.iteration += 1
        self.steps[state.rows] += 1
        if anew or len(run.stops):
            self.retire(done, ended)

    def publish(
        self,
        moved: Moved,
        state: RunState,
        filled: Step | None,
        before: RunState,
        passes_before: Tensor,
        done: Tensor,
    ) -> None:
        """Tell the listeners of a step.

        Args:
            moved: the step.
            state: the rows after it, filled.
            filled: what was written after it where a finished schedule left something, or None.
            before: the rows before it.
            passes_before: int64 [A], forward passes of the rows before it.
            done: bool [A], rows that are done.
        """
        counts, step, editable = self.run.model.counts, moved.step, moved.canvas.editable
        logprob = step.logprob if filled is None else step.logprob + filled.logprob
        log_confidence, entropy = seen_of(step, filled)
        nfe = counts.nfe[state.rows]
        event = StepEvent(
            iteration=self.iteration,
            rows=state.rows,
            before=before.tokens,
            tokens=state.tokens,
            unknown=state.unknown,
            written=(state.tokens != before.tokens) | (before.unknown & ~state.unknown),
            block=state.block,
            step=state.step,
            nfe=nfe,
            forwarded=nfe > passes_before,
            logprob=logprob.masked_fill(~editable, 0.0),
            log_confidence=log_confidence,
            entropy=entropy,
            final=done,
            horizon=state.window.stop if self.run.request.blocks.causal else None,
            time=counts.told[state.rows],
        )
        for listener in self.listeners.all:
            listener(event)

    def retire(self, done: Tensor, ended: Tensor) -> None:
        """Store the rows of `done` (bool [A]) and drop them; those of `ended` met a stop token."""
        if not bool(done.any()):
            return
        state, rows = self.state, self.state.rows[done]
        if bool(ended.any()):
            cut = ended.unsqueeze(1) & state.unknown
            state = replace(state, tokens=torch.where(cut, self.run.filler, state.tokens))
        self.tokens[rows], self.logprob[rows] = state.tokens[done], state.logprob[done]
        self.ended[rows] = ended[done]
        self.state = select_rows(state, ~done)
        self.padded = not bool(self.state.attention.all())

    def output(self) -> SampleOutput:
        """The results of all rows."""
        counts = self.run.model.counts
        return SampleOutput(
            self.tokens, self.logprob, counts.nfe, counts.work, self.steps, self.run.seeds,
            self.ended, self.listeners.trajectory,
        )  # fmt: skip

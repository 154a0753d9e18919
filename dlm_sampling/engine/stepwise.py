"""Run all steps one by one; rows that are done leave the batch and cost no further pass."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from dlm_sampling.engine.early_end import filled_behind
from dlm_sampling.engine.output import Listeners, SampleOutput
from dlm_sampling.engine.run import Run
from dlm_sampling.engine.speculation import Speculation
from dlm_sampling.engine.state import Moved, RunState
from dlm_sampling.engine.trajectory import StepEvent, drawn_in, statistics_of
from dlm_sampling.prediction.ledger import Ledger
from dlm_sampling.prediction.predictor import Predictor
from dlm_sampling.types import Step
from dlm_sampling.types.rows import no_rows, select_rows
from dlm_sampling.types.values import every, some


def run_stepwise(run: Run, state: RunState, listeners: Listeners) -> SampleOutput:
    """Run steps until every row is done.

    Args:
        run: the settings that all steps share.
        state: the state of all batch rows before the first step.
        listeners: the receivers of step events.
    """
    driver = Stepwise(run, state, listeners)
    driver.retire(run.plan.number == 0, torch.zeros_like(driver.ended))
    while len(driver.state):
        driver.advance()
    return driver.output()


class Stepwise:
    """Hold the active rows of a run, and the results of the rows that are done.

    Args:
        run: the settings that all steps share.
        state: the state before the first step, with all batch rows in order.
        listeners: the receivers of step events.
    """

    def __init__(self, run: Run, state: RunState, listeners: Listeners) -> None:
        self.run, self.state, self.listeners = run, state, listeners
        self.heard = bool(listeners)
        self.patience = run.sampler.patience(state.tokens.shape[1])
        self.padded = not every(state.attention)
        self.stoppable = len(run.stops) > 0
        self.tokens, self.logprob = state.tokens.clone(), state.logprob.clone()
        self.steps = torch.zeros_like(state.rows)
        self.ended = torch.zeros_like(state.rows, dtype=torch.bool)
        self.iteration: int = 0
        self.speculation = Speculation.of(run)

    def advance(self) -> None:
        """Take one step of every active row."""
        run, before = self.run, self.state
        predictor = run.predictor(before, self.padded, noted=self.heard, shares=self.iteration == 0)
        if self.speculation is not None:
            predictor = self.speculation.before(before, predictor, self.padded)
        counted = self.heard or run.budget is not None
        counts = run.model.counts
        passes_before = counts.nfe[before.rows] if counted else None
        asked_before = counts.asked[before.rows] if counted else None
        moved = run.move(before, predictor, check=self.iteration == 0)
        if run.budget is not None and asked_before is not None:
            moved = run.budget.kept(before, moved, predictor, asked_before)
        state, filled = moved.state, None
        block_ended = some(moved.over)
        if block_ended:
            left = run.unwritten(moved)
            if some(left):
                predictor.speculation = None
                state, filled = run.fill(state, moved.canvas, left, predictor)
        if run.request.fills_behind:
            state, filled = filled_behind(state, moved.step, filled, run.stops)
        if run.windows.line is not None and (run.budget is not None or run.request.fills_behind):
            moved = replace(moved, over=run.windows.moved(state))  # more was written
            block_ended = some(moved.over)
        if run.adaptive and self.iteration > self.patience and some(run.stuck(moved)):
            raise run.endless(state.tokens.shape[1])
        ended = done = moved.over
        if block_ended or self.stoppable or self.heard:
            ended, done = run.endings(state, moved.over)
        if block_ended:
            complete = run.completed(state, moved.over)
            ended, done = ended | complete, done | complete
        after = self.stepped(before, moved, state, predictor)
        if self.heard and passes_before is not None:
            parents = after.lineage
            self.publish(
                moved, state, filled, before, passes_before, done, predictor.ledger, parents
            )
        if self.speculation is not None and block_ended:
            self.speculation.guesses.forget(before.rows[moved.over])
        if not block_ended:
            self.state = run.advance_step(after)
        else:  # rows that are done have no next block
            self.state = after if every(done) else run.advance_clock(after, moved.over)
        self.iteration += 1
        run.model.settle()
        # The two refer to each other: the logits would stay until garbage is collected.
        predictor.made = None
        if block_ended or self.stoppable:
            self.retire(done, ended)

    def stepped(
        self, before: RunState, moved: Moved, state: RunState, predictor: Predictor
    ) -> RunState:
        """Return the state to go on from after a step: here as it is; particles resample."""
        return state

    def publish(
        self,
        moved: Moved,
        state: RunState,
        filled: Step | None,
        before: RunState,
        passes_before: Tensor,
        done: Tensor,
        ledger: Ledger | None,
        parents: Tensor | None,
    ) -> None:
        """Pass the event of a step to the listeners.

        Args:
            moved: the step.
            state: the state after the step and the fill.
            filled: the fill of positions that a finished schedule left unknown, or None.
            before: the state before the step.
            passes_before: int64 [A], forward passes of the rows before the step.
            done: bool [A], rows that are done.
            ledger: the draws of the step.
            parents: int64 [A], the row that each one goes on from, or None.
        """
        counts, step, editable = self.run.model.counts, moved.step, moved.canvas.editable
        logprob = step.logprob if filled is None else step.logprob + filled.logprob
        log_confidence, entropy = statistics_of(step, filled)
        nfe = counts.nfe[state.rows]
        written = (state.tokens != before.tokens) | (before.unknown & ~state.unknown)
        event = StepEvent(
            iteration=self.iteration,
            rows=state.rows,
            before=before.tokens,
            tokens=state.tokens,
            unknown=state.unknown,
            written=written,
            block=state.block,
            last=state.last,
            step=state.step,
            nfe=nfe,
            forwarded=nfe > passes_before,
            logprob=logprob.masked_fill(~editable, 0.0),
            log_confidence=log_confidence,
            entropy=entropy,
            final=done,
            horizon=state.window.stop if self.run.request.blocks.causal else None,
            time=counts.model_time[state.rows],
            drawn=drawn_in(step, filled, ledger, written),
            parents=parents,
        )
        for listener in self.listeners.all:
            listener(event)

    def retire(self, done: Tensor, ended: Tensor) -> None:
        """Store the results of the rows `done` (bool [A]) and drop these rows.

        Unknown positions of rows in `ended` (bool [A]), which met a stop token or whose text is
        complete, become padding.
        """
        if not some(done):
            return
        state, rows = self.state, self.state.rows[done]
        if some(ended):
            cut = ended.unsqueeze(1) & state.unknown
            state = replace(state, tokens=torch.where(cut, self.run.filler, state.tokens))
        self.tokens[rows], self.logprob[rows] = state.tokens[done], state.logprob[done]
        self.ended[rows], self.steps[rows] = ended[done], self.iteration
        if every(done):
            self.state = no_rows(state)
            return
        self.state = select_rows(state, (~done).nonzero().squeeze(1))
        self.padded = not every(self.state.attention)

    def output(self) -> SampleOutput:
        """Return the results of all batch rows."""
        counts = self.run.model.counts
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
            forced=None if self.run.budget is None else self.run.budget.forced,
        )

"""Hold the record of a run: typed step events, and the trajectory that collects them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from dlm_sampling.caches import policy_of
from dlm_sampling.engine.request import Request
from dlm_sampling.prediction.ledger import Ledger
from dlm_sampling.types import Drawn, Step


@dataclass(frozen=True)
class StepEvent:
    """Describe one step of the loop to a callback, a streamer, a viewer or a trajectory.

    A is the number of active rows of the step.  Tensors live on the denoiser's device.

    Fields:
        iteration: number of the loop step, from 0.
        rows: int64 [A], index of each active row in the batch.
        before: int64 [A, L], the canvas before the step.
        tokens: int64 [A, L], the canvas after the step.
        unknown: bool [A, L], positions still to be written.
        written: bool [A, L], positions that this step wrote, rewrote or masked again.
        block: int64 [A], index of the row's block.
        step: int64 [A], step within the block.
        nfe: int64 [A], forward passes of the row so far.
        forwarded: bool [A], whether this step called the model for the row.
        logprob: [A, L], log-probability of the tokens written in this step, 0 elsewhere.
        log_confidence, entropy: [A, L] or None, statistics of the evaluated positions (nats), 0
            elsewhere.
        final: bool [A], whether the row ended with this step.
        horizon: int64 [A], first column hidden from the model, or None if none was hidden.
        time: float64 [A], time argument of the row's latest pass, on the model's own schedule; NaN
            or None if the model takes no time.
        drawn: int8 [A, L], how each written token was drawn, as `types.Drawn` counts; None in an
            event made by hand, whose tokens count as drawn from the law.
        last: int64 [A], index of the last block under way in a pipeline, `block` being the first;
            None without one.
        parents: int64 [A], the batch row whose canvas each row goes on with after the step, where
            particles are resampled; None: its own.
    """

    iteration: int
    rows: Tensor
    before: Tensor
    tokens: Tensor
    unknown: Tensor
    written: Tensor
    block: Tensor
    step: Tensor
    nfe: Tensor
    forwarded: Tensor
    logprob: Tensor
    log_confidence: Tensor | None
    entropy: Tensor | None
    final: Tensor
    horizon: Tensor | None = None
    time: Tensor | None = None
    drawn: Tensor | None = None
    last: Tensor | None = None
    parents: Tensor | None = None


StepCallback = Callable[[StepEvent], None]


@dataclass(frozen=True)
class Trajectory:
    """Hold the steps of a run, from which every canvas can be rebuilt.

    Fields:
        initial: int64 [B, L], the canvas before the first step.
        editable: bool [B, L], positions that the run may write.
        events: the steps, in order.
        attention_mask: bool [B, L], False at padding; None without padding.
        sampler: name of the sampler's class, for messages.
        masked: whether the noise of the run is masks, so that an unknown position holds no token.
        unknown: bool [B, L], positions without a token before the first step; None: all editable
            ones, as without a draft.
        request: the settings of the run; None if the trajectory was made by hand.
        seeds: one per row; () if the trajectory was made by hand.
    """

    initial: Tensor
    editable: Tensor
    events: list[StepEvent] = field(default_factory=list[StepEvent])
    attention_mask: Tensor | None = None
    sampler: str = "a sampler"
    masked: bool = True
    unknown: Tensor | None = None
    request: Request | None = None
    seeds: tuple[int, ...] = ()

    @property
    def cache(self) -> str | None:
        """Return the approximate cache whose law the tokens came from; None: none, or exact."""
        if self.request is None or self.request.cache in ("auto", "none"):
            return None
        policy = policy_of(self.request.cache)
        exact = policy.exact and not self.request.told_time
        return None if exact else repr(policy)

    def steps(self, row: int) -> list[tuple[StepEvent, int]]:
        """Return the events of one row, each with the row's index inside the event.

        A row of particles is followed back through the rows that it descends from.
        """
        found: list[tuple[StepEvent, int]] = []
        for event in reversed(self.events):
            where = (event.rows == row).nonzero()
            if len(where) and event.parents is not None:
                row = int(event.parents[where[0]])
                where = (event.rows == row).nonzero()
            if len(where):
                found.append((event, int(where[0])))
        return found[::-1]

    def paths(self) -> Trajectory:
        """Return the trajectory in which the steps of a row are those that led to its end.

        Of particles each row then has the steps of the rows that it descends from, so that a step
        that several rows share stands in it several times; without particles it is the same.
        """
        if all(event.parents is None for event in self.events):
            return self
        at = torch.arange(len(self.initial), device=self.initial.device)
        events: list[StepEvent] = []
        for event in reversed(self.events):
            rows = event.rows
            place = torch.full_like(at, -1).index_copy(0, rows, torch.arange(len(rows)).to(at))
            if event.parents is not None:
                at = at.index_copy(0, rows, event.parents[place[at[rows]]])
            events.append(_selected(event, rows, place[at[rows]]))
        initial, editable = self.initial[at], self.editable[at]
        unknown = None if self.unknown is None else self.unknown[at]
        return replace(
            self, initial=initial, editable=editable, unknown=unknown, events=events[::-1]
        )

    def canvases(self, row: int, *, forwards_only: bool = False) -> Tensor:
        """Return the canvas before each step of one row, int64 [T, L].

        With `forwards_only`, only the canvases of steps that called the model for the row.
        """
        seen = [
            e.before[i] for e, i in self.steps(row) if bool(e.forwarded[i]) or not forwards_only
        ]
        return torch.stack(seen) if seen else self.initial.new_zeros((0, self.initial.shape[1]))

    def canvas(self, row: int, step: int) -> Tensor:
        """Return the canvas of one row after `step` steps, int64 [L]; step 0 is the initial canvas.

        Raises:
            IndexError: the row has fewer steps.
        """
        steps = self.steps(row)
        if not 0 <= step <= len(steps):
            raise IndexError(
                f"step={step}: row {row} has {len(steps)} steps; allowed are 0 to {len(steps)}."
            )
        if step == 0:
            return self.initial[row]
        event, index = steps[step - 1]
        return event.tokens[index]


def _selected(event: StepEvent, rows: Tensor, index: Tensor) -> StepEvent:
    """Return the event whose rows, named `rows` (int64 [n]), are the rows `index` of an event."""
    of_rows = {name: part[index] for name, part in vars(event).items() if isinstance(part, Tensor)}
    return replace(event, **{**of_rows, "rows": rows, "parents": None})


def statistics_of(step: Step, filled: Step | None) -> tuple[Tensor | None, Tensor | None]:
    """Return log-confidence and entropy of a step and of the fill after it, [A, L] each.

    Both are None if the step made no draw.
    """
    if step.draw is None:
        return None, None
    confidence, entropy = step.draw.log_confidence, step.draw.entropy
    if filled is None or filled.draw is None:
        return confidence, entropy
    late = step.unknown & ~filled.unknown
    return (
        torch.where(late, filled.draw.log_confidence, confidence),
        torch.where(late, filled.draw.entropy, entropy),
    )


def drawn_in(
    step: Step, filled: Step | None, ledger: Ledger | None, written: Tensor
) -> Tensor | None:
    """Return how each token that a step and the fill after it wrote was drawn, int8 [A, L].

    A token that was written without a draw of this step counts as `Drawn.OTHERWISE`.
    """
    if ledger is None:
        return None
    how = ledger.how.masked_fill(ledger.how == Drawn.NOT, Drawn.OTHERWISE)
    if filled is not None:
        how = how.masked_fill(step.unknown & ~filled.unknown, Drawn.ARGMAX)
    return how.masked_fill(~written, Drawn.NOT)

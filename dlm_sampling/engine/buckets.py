"""Run rows of similar length together, so that a long row does not pad the short ones.

A batch computes every row up to the columns of its longest one.  Rows that are at most half as long
as the longest run by themselves, without the columns that are padding in all of them, where that
spares at least one long row; those rows are cut likewise.  Which rows run together follows from the
lengths of the batch alone, and a row does not depend on the others, so that tokens, passes and
counts are those of the whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import pad

from dlm_sampling.caches.report import joined_reports
from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.engine.output import SampleOutput
from dlm_sampling.engine.request import Canvases, IsComplete, Request
from dlm_sampling.engine.sample import run_request
from dlm_sampling.engine.trajectory import StepCallback, StepEvent, Trajectory
from dlm_sampling.types.values import ints


def buckets(lengths: Sequence[int]) -> list[list[int]]:
    """Return the rows that run together, each list in order; the longest rows come first.

    Args:
        lengths: columns of every row without padding.
    """
    rows = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    found: list[list[int]] = []
    while rows:
        longest = lengths[rows[0]]
        short = [row for row in rows if 2 * lengths[row] <= longest]
        spared = sum(longest - lengths[short[0]] for _ in short)
        if spared < max(longest, 1):
            short = []
        found.append(sorted(rows[: len(rows) - len(short)]))
        rows = short
    return found


def run_buckets(
    denoiser: Denoiser,
    request: Request,
    canvases: Canvases,
    callbacks: Sequence[StepCallback] = (),
    first: int = 0,
) -> SampleOutput:
    """Run a request over all rows as `run_request` does, in buckets of similar length.

    Recorded steps have one shape, and objects of guidance hold tensors of their rows: such a run
    has one bucket.

    Args:
        denoiser: the model.
        request: the settings of the run.
        canvases: the rows, padded on the left.
        callbacks: called after each step, with rows and columns of these canvases.
        first: number of the first row in the whole batch, for messages.
    """
    whole = request.cuda_graph or request.guidance is not None
    groups = [] if whole else buckets(ints(canvases.attention.sum(1)))
    if len(groups) < 2:
        numbers = range(first, first + len(canvases.seeds))
        return run_request(denoiser, request, canvases, callbacks, numbers)
    parts: list[tuple[Bucket, SampleOutput]] = []
    for rows in groups:
        bucket = Bucket.of(canvases, rows)
        heard = [bucket.widened(callback) for callback in callbacks]
        numbers = [first + row for row in rows]
        parts.append((bucket, run_request(denoiser, request, bucket.cut(), heard, numbers)))
    return _joined(parts, canvases)


@dataclass(frozen=True)
class Bucket:
    """Hold the rows that run together, and the columns that are padding in all of them.

    Fields:
        canvases: the canvases of the whole batch.
        rows: int64 [b], the rows.
        spare: number of the first columns that are left out.
    """

    canvases: Canvases
    rows: Tensor
    spare: int

    @classmethod
    def of(cls, canvases: Canvases, rows: list[int]) -> Bucket:
        """Take rows of the canvases."""
        index = torch.tensor(rows, device=canvases.tokens.device)
        used = canvases.attention[index].any(0)
        return cls(canvases, index, int(used.long().argmax()))

    def cut(self) -> Canvases:
        """Return the canvases of these rows, without the spare columns."""
        whole, rows, spare = self.canvases, self.rows, self.spare
        places = ints(rows)
        return Canvases(
            tokens=whole.tokens[rows, spare:],
            editable=whole.editable[rows, spare:],
            attention=whole.attention[rows, spare:],
            seeds=tuple(whole.seeds[row] for row in places),
            may_stop=whole.may_stop[rows],
            complete=tuple(self._shifted(whole.complete[row]) for row in places)
            if whole.complete
            else (),
            begin=None if whole.begin is None else whole.begin[rows] - spare,
        )

    def _shifted(self, complete: IsComplete | None) -> IsComplete | None:
        """Return a function that is asked with the columns of these canvases."""
        if complete is None:
            return None

        def asked(row: Tensor, known: int) -> bool:
            return complete(pad(row, (self.spare, 0)), known + self.spare)

        return asked

    def wide(self, table: Tensor) -> Tensor:
        """Return a table [b, L'] of these rows with all columns, 0 in the spare ones."""
        return pad(table, (self.spare, 0))

    def tokens(self, narrow: Tensor, rows: Tensor) -> Tensor:
        """Return the tokens of some rows with all columns.

        Args:
            narrow: int64 [n, L'].
            rows: int64 [n], their numbers in the batch.
        """
        padding = self.canvases.tokens[rows.to(self.canvases.tokens.device), : self.spare]
        return torch.cat((padding.to(narrow.device), narrow), 1)

    def event(self, event: StepEvent) -> StepEvent:
        """Return an event with the rows and columns of the whole batch."""
        numbers = self.rows.to(event.rows.device)
        rows, confidence, entropy = numbers[event.rows], event.log_confidence, event.entropy
        return replace(
            event,
            rows=rows,
            before=self.tokens(event.before, rows),
            tokens=self.tokens(event.tokens, rows),
            unknown=self.wide(event.unknown),
            written=self.wide(event.written),
            logprob=self.wide(event.logprob),
            log_confidence=None if confidence is None else self.wide(confidence),
            entropy=None if entropy is None else self.wide(entropy),
            horizon=None if event.horizon is None else event.horizon + self.spare,
            drawn=None if event.drawn is None else self.wide(event.drawn),
            parents=None if event.parents is None else numbers[event.parents],
        )

    def widened(self, callback: StepCallback) -> StepCallback:
        """Return a callback that passes events on with rows and columns of the whole batch."""

        def listen(event: StepEvent) -> None:
            callback(self.event(event))

        return listen


def _joined(parts: list[tuple[Bucket, SampleOutput]], canvases: Canvases) -> SampleOutput:
    """Return the outputs of all buckets as that of the whole batch, rows in order."""
    rows = torch.cat([bucket.rows for bucket, _ in parts]).to(parts[0][1].tokens.device)
    order, outputs = rows.argsort(), [out for _, out in parts]
    forced = [out.forced for out in outputs]

    def placed(tables: Sequence[Tensor]) -> Tensor:
        return torch.cat(tuple(tables))[order]

    return SampleOutput(
        tokens=placed([bucket.tokens(out.tokens, bucket.rows) for bucket, out in parts]),
        logprob=placed([bucket.wide(out.logprob) for bucket, out in parts]),
        nfe=placed([out.nfe for out in outputs]),
        work=placed([out.work for out in outputs]),
        shared=placed([out.shared for out in outputs]),
        steps=placed([out.steps for out in outputs]),
        seeds=canvases.seeds,
        ended=placed([out.ended for out in outputs]),
        trajectory=_trajectory(parts, canvases, order),
        cache=joined_reports([out.cache for out in outputs]),
        forced=None if None in forced else placed(cast("list[Tensor]", forced)),
    )


def _trajectory(
    parts: list[tuple[Bucket, SampleOutput]], canvases: Canvases, order: Tensor
) -> Trajectory | None:
    """Return the trajectories of all buckets as one; None if none was kept."""
    kept = [(bucket, out.trajectory) for bucket, out in parts if out.trajectory is not None]
    if not kept:
        return None
    initial = [bucket.tokens(trajectory.initial, bucket.rows) for bucket, trajectory in kept]
    unknown = [
        None if trajectory.unknown is None else bucket.wide(trajectory.unknown)
        for bucket, trajectory in kept
    ]
    return replace(
        kept[0][1],
        initial=torch.cat(initial)[order],
        unknown=None if None in unknown else torch.cat(cast("list[Tensor]", unknown))[order],
        editable=canvases.editable,
        events=[bucket.event(event) for bucket, found in kept for event in found.events],
        attention_mask=canvases.attention,
        seeds=canvases.seeds,
    )

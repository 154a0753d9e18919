"""Run a large batch in parts of a few rows, and join the results in row order."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar, cast

import torch
from torch import Tensor

from dlm_sampling.caches.report import joined_reports
from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.engine.buckets import run_buckets
from dlm_sampling.engine.output import SampleOutput
from dlm_sampling.engine.request import Canvases, Request
from dlm_sampling.engine.trajectory import StepCallback, StepEvent, Trajectory
from dlm_sampling.errors import check_whole

logger = logging.getLogger("dlm_sampling")

Output = TypeVar("Output")


def by_length(rows: Sequence[int], lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Return batches of at most `batch_size` rows of similar length, the shortest rows first.

    Args:
        rows: the rows, in any order; rows of equal length keep it.
        lengths: columns of every row, by its number.
        batch_size: maximum number of rows per batch, at least 1.
    """
    ordered = sorted(rows, key=lambda row: lengths[row])
    return [ordered[i : i + batch_size] for i in range(0, len(ordered), batch_size)]


def in_parts(
    rows: int,
    batch_size: int | None,
    run: Callable[[int, int], Output],
    on_halve: Callable[[int], None] | None = None,
) -> Iterator[tuple[int, Output]]:
    """Run rows in parts of `batch_size`, in order; yield each part's first row and its output.

    Args:
        rows: number of rows.
        batch_size: maximum number of rows per part, or None for a single part.
        run: runs the rows first to last - 1, with arguments (first, last).
        on_halve: called with the new batch size before a part that does not fit into memory is
            run again in halves; all later parts have that size.  None: such an error is raised.

    Raises:
        TypeError: batch_size is not an integer.
        ValueError: batch_size < 1.
    """
    check_batch_size(batch_size)
    size = rows if batch_size is None else batch_size
    first = 0
    while first < rows:
        last = min(first + size, rows)
        done: list[Output] = []
        try:
            done.append(run(first, last))
        except (RuntimeError, MemoryError) as error:
            if on_halve is None or last - first == 1 or not out_of_memory(error):
                raise
        if done:
            yield first, done[0]
            first = last
        elif on_halve is not None:  # behind the except clause, which holds the failed run's tensors
            size = -(-(last - first) // 2)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            logger.warning("Out of memory: going on with %d rows at a time.", size)
            on_halve(size)


def check_batch_size(batch_size: int | None) -> None:
    """Check that `batch_size` is None or at least 1.

    Raises:
        TypeError: it is not an integer.
        ValueError: it is below 1.
    """
    check_whole("batch_size", batch_size, optional=True)
    if batch_size is not None and batch_size < 1:
        raise ValueError(
            f"batch_size={batch_size}: must be at least 1, or None for all rows together."
        )


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory is full, of a device or of the host."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # The host's allocator raises a plain RuntimeError.
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


def run_parts(
    denoiser: Denoiser,
    request: Request,
    canvases: Canvases,
    batch_size: int | None,
    callbacks: Sequence[StepCallback] = (),
) -> SampleOutput:
    """Run the rows of one set of canvases in parts of `batch_size`, and join the outputs.

    Rows of a part that differ much in length run in `buckets`.

    Args:
        denoiser: the model.
        request: the settings of the run.
        canvases: all rows.
        batch_size: maximum number of rows per part, or None for a single part.
        callbacks: called after each step, with row numbers of the whole batch.

    Raises:
        TypeError: batch_size is not an integer.
        ValueError: batch_size < 1.
    """
    if request.guidance is not None:  # of all rows, before it is cut
        request.guidance.check(denoiser, request.sampler, len(canvases.tokens))

    def run(first: int, last: int) -> SampleOutput:
        relabelled = [_relabel(callback, first) for callback in callbacks]
        guidance = None if request.guidance is None else request.guidance.part(first, last)
        mine = replace(request, guidance=guidance)
        return run_buckets(denoiser, mine, canvases.part(first, last), relabelled, first)

    return join(list(in_parts(len(canvases.tokens), batch_size, run)), canvases)


def join(parts: Sequence[tuple[int, SampleOutput]], canvases: Canvases) -> SampleOutput:
    """Concatenate the outputs of `run_parts` into one output on the CPU."""
    outputs = [out for _, out in parts]
    forced = [out.forced for out in outputs]
    return SampleOutput(
        tokens=torch.cat([out.tokens for out in outputs]).cpu(),
        logprob=torch.cat([out.logprob for out in outputs]).cpu(),
        nfe=torch.cat([out.nfe for out in outputs]).cpu(),
        work=torch.cat([out.work for out in outputs]).cpu(),
        shared=torch.cat([out.shared for out in outputs]).cpu(),
        steps=torch.cat([out.steps for out in outputs]).cpu(),
        seeds=canvases.seeds,
        ended=torch.cat([out.ended for out in outputs]).cpu(),
        trajectory=_trajectory(parts, canvases),
        cache=joined_reports([out.cache for out in outputs]),
        forced=None if None in forced else torch.cat(cast("list[Tensor]", forced)).cpu(),
    )


def _trajectory(parts: Sequence[tuple[int, SampleOutput]], canvases: Canvases) -> Trajectory | None:
    """Concatenate the trajectories of the parts; None if no part kept one."""
    kept = [(first, out.trajectory) for first, out in parts if out.trajectory is not None]
    if not kept:
        return None
    events = [
        replace(event, rows=event.rows + first)
        for first, trajectory in kept
        for event in trajectory.events
    ]
    initial = torch.cat([trajectory.initial for _, trajectory in kept]).cpu()
    unknown = [trajectory.unknown for _, trajectory in kept]
    return replace(
        kept[0][1],
        initial=initial,
        editable=canvases.editable,
        unknown=None if None in unknown else torch.cat(cast("list[Tensor]", unknown)).cpu(),
        events=events,
        attention_mask=canvases.attention,
        seeds=canvases.seeds,
    )


def _relabel(callback: StepCallback, first: int) -> StepCallback:
    """Return a callback that passes events on with the row numbers of the whole batch."""

    def listen(event: StepEvent) -> None:
        callback(replace(event, rows=event.rows + first))

    return listen

"""Run a large batch in parts of a few rows, and join the results in row order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.engine.request import Canvases, Request, SampleOutput
from dlm_sampling.engine.sample import run_request
from dlm_sampling.engine.trajectory import StepCallback, StepEvent, Trajectory
from dlm_sampling.errors import check_whole


def run_parts(
    denoiser: Denoiser,
    request: Request,
    canvases: Canvases,
    batch_size: int | None,
    callbacks: Sequence[StepCallback] = (),
) -> Iterator[tuple[int, SampleOutput]]:
    """Run the rows in parts of `batch_size`, in order; yield each part's first row and output.

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
    check_whole("batch_size", batch_size, optional=True)
    rows = len(canvases.tokens)
    size = rows if batch_size is None else batch_size
    if size < 1:
        raise ValueError(
            f"batch_size={batch_size}: must be at least 1, or None for all rows together."
        )
    for first in range(0, rows, size):
        part = canvases.part(first, first + size)
        relabelled = [_relabel(callback, first) for callback in callbacks]
        yield first, run_request(denoiser, request, part, relabelled)


def join(parts: Sequence[tuple[int, SampleOutput]], canvases: Canvases) -> SampleOutput:
    """Concatenate the outputs of `run_parts` into one output on the CPU."""
    outputs = [out for _, out in parts]
    return SampleOutput(
        tokens=torch.cat([out.tokens for out in outputs]).cpu(),
        logprob=torch.cat([out.logprob for out in outputs]).cpu(),
        nfe=torch.cat([out.nfe for out in outputs]).cpu(),
        work=torch.cat([out.work for out in outputs]).cpu(),
        steps=torch.cat([out.steps for out in outputs]).cpu(),
        seeds=canvases.seeds,
        ended=torch.cat([out.ended for out in outputs]).cpu(),
        trajectory=_trajectory(parts, canvases),
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
    return replace(
        kept[0][1],
        initial=initial,
        editable=canvases.editable,
        events=events,
        attention_mask=canvases.attention,
    )


def _relabel(callback: StepCallback, first: int) -> StepCallback:
    """Return a callback that passes events on with the row numbers of the whole batch."""

    def listen(event: StepEvent) -> None:
        callback(replace(event, rows=event.rows + first))

    return listen

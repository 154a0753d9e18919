"""Rows in groups: run a large batch a part at a time, and put the results back in order."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.engine.sample import SampleOutput, sample
from dlm_sampling.engine.trajectory import StepCallback, StepEvent, Trajectory
from dlm_sampling.text.prompts import CanvasBatch
from dlm_sampling.text.streaming import ProgressFeed, Streamer, StreamerFeed
from dlm_sampling.types import Sampler


def run_batches(
    denoiser: Denoiser,
    sampler: Sampler[Any],
    batch: CanvasBatch,
    seeds: list[int],
    ending: list[str],
    stop_ids: tuple[int, ...],
    batch_size: int,
    streamer: Streamer | None,
    callback: StepCallback | None,
    progress: bool | None,
    **options: Any,
) -> SampleOutput:
    """Run the rows in groups of `batch_size`, rows of one ending together, and join the results."""
    if batch_size < 1:
        raise ValueError(
            f"batch_size={batch_size}: must be at least 1, or None for all rows together."
        )
    listeners: list[StepCallback] = [] if callback is None else [callback]
    if streamer is not None:
        listeners.append(
            StreamerFeed(
                streamer,
                batch.tokens,
                batch.editable,
                batch.attention,
                sampler.revises,
                stop_ids if "keep" not in ending else (),
            )
        )
    bar = ProgressFeed(int(batch.editable.sum()), progress)
    if bar.visible:
        listeners.append(bar)
    parts: list[tuple[Tensor, SampleOutput]] = []
    with closing(bar):
        for ended in ("keep", "cut", "stop"):
            group = [i for i, e in enumerate(ending) if e == ended]
            for first in range(0, len(group), batch_size):
                rows = torch.tensor(group[first : first + batch_size])
                out = sample(
                    denoiser,
                    sampler,
                    batch.tokens[rows],
                    batch.editable[rows],
                    attention_mask=batch.attention[rows],
                    seeds=[seeds[i] for i in group[first : first + batch_size]],
                    stop_token_ids=stop_ids if ended == "stop" else (),
                    callback=_relabel(listeners, rows) if listeners else None,
                    **options,
                )
                parts.append((rows, out))
    return _join(parts, batch)


def _relabel(listeners: list[StepCallback], rows: Tensor) -> StepCallback:
    """Pass events on with the row numbers of the whole batch."""

    def listen(event: StepEvent) -> None:
        event = replace(event, rows=rows.to(event.rows.device)[event.rows])
        for listener in listeners:
            listener(event)

    return listen


def _join(parts: list[tuple[Tensor, SampleOutput]], batch: CanvasBatch) -> SampleOutput:
    """Put the groups back into the order of the rows."""
    order = torch.cat([rows for rows, _ in parts]).argsort()

    def gather(name: str) -> Tensor:
        return torch.cat([getattr(out, name) for _, out in parts]).cpu()[order]

    trajectory: Trajectory | None = None
    if parts[0][1].trajectory is not None:
        events = [
            replace(event, rows=rows.to(event.rows.device)[event.rows])
            for rows, out in parts
            if out.trajectory is not None
            for event in out.trajectory.events
        ]
        initial = torch.cat(
            [out.trajectory.initial for _, out in parts if out.trajectory is not None]
        ).cpu()[order]
        trajectory = Trajectory(initial, batch.editable, events, batch.attention)
    return SampleOutput(
        gather("tokens"),
        gather("logprob"),
        gather("nfe"),
        gather("steps"),
        gather("ended"),
        trajectory,
    )

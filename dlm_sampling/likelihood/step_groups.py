"""Group the steps of a run into canvases to score, each with the tokens that were written on it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.engine.trajectory import StepEvent, Trajectory
from dlm_sampling.likelihood.records import argmax_of, attention_of
from dlm_sampling.likelihood.scoring import Views


@dataclass
class _StepGroup:
    """Hold the current group of steps of each row; all [B, ...]."""

    canvas: Tensor  # int64 [B, L], before the group's first step
    tokens: Tensor  # int64 [B, L], after its latest step
    written: Tensor  # bool [B, L]
    argmax: Tensor  # bool [B, L], those of them that were taken as the argmax
    steps: Tensor  # int64 [B], steps that wrote something
    before: Tensor  # int64 [B], steps of the row that wrote something, of all groups
    horizon: Tensor  # int64 [B], first hidden column in its latest step
    time: Tensor  # float64 [B], time argument of its first step


def views_of(
    denoiser: Denoiser,
    trajectory: Trajectory,
    events: Iterable[StepEvent],
    shrink: int,
    window: tuple[int, int] | None,
) -> Iterator[Views]:
    """Yield the canvases to score; a row's canvas comes when its group of steps is full."""
    device, masked = denoiser.device, denoiser.mask_token_id is not None
    initial, editable = trajectory.initial.to(device), trajectory.editable.to(device)
    attention, cropped = attention_of(trajectory).to(device), False
    steps = torch.zeros(len(initial), dtype=torch.int64, device=device)
    time = torch.full_like(steps, torch.nan, dtype=torch.float64)
    group = _StepGroup(
        initial.clone(), initial.clone(), torch.zeros_like(editable), torch.zeros_like(editable),
        steps, steps.clone(), steps.clone(), time,
    )  # fmt: skip

    def close(full: Tensor) -> Views:
        rows = full.nonzero().squeeze(1)
        where, argmax = group.written[rows], group.argmax[rows]
        group.written[rows], group.steps[rows] = False, 0
        some = where.any(1)
        rows, where, argmax = rows[some], where[some], argmax[some]
        seen = group.horizon[rows] if cropped else None
        views = Views(rows, group.canvas[rows], group.tokens[rows], where, attention[rows], seen)
        return views._replace(time=_times(denoiser, group.time[rows]), argmax=argmax)

    for event in events:
        if window is not None:  # what later steps mask again was scored within the window
            yield close((group.steps > 0) & (group.before >= window[1]))
        rows, tokens = event.rows.to(device), event.tokens.to(device)
        argmax = argmax_of(trajectory, event).to(device)
        # On masks, positions still unknown after the step were masked again, not drawn.
        known = ~event.unknown.to(device) if masked else torch.ones_like(tokens, dtype=torch.bool)
        drawn = event.written.to(device) & known & editable[rows]
        writes = drawn.any(1)
        if window is not None:
            number = group.before[rows]
            group.before[rows] = number + writes
            writes = writes & (number >= window[0]) & (number < window[1])
            drawn = drawn & writes.unsqueeze(1)
        first = writes & (group.steps[rows] == 0)
        group.canvas[rows] = torch.where(
            first.unsqueeze(1), event.before.to(device), group.canvas[rows]
        )
        group.written[rows] = (group.written[rows] | drawn) & known
        group.argmax[rows] = torch.where(drawn, argmax, group.argmax[rows])
        group.tokens[rows] = tokens
        group.steps[rows] += writes
        if event.horizon is not None:
            cropped, group.horizon[rows] = True, event.horizon.to(device)
        if event.time is not None:
            group.time[rows] = torch.where(first, event.time.to(device), group.time[rows])
        yield close(group.steps >= shrink)
    yield close(group.steps > 0)


def _times(denoiser: Denoiser, time: Tensor) -> Tensor | None:
    """Return the time arguments for a time-conditioned model, else None.

    Raises:
        ValueError: the run did not record its times.
    """
    if not denoiser.time_conditioned:
        return None
    if bool(time.isnan().any()):
        raise ValueError(
            f"run does not tell the times of its steps, and this denoiser ({denoiser.family}) is "
            "conditioned on them: was it sampled with a denoiser that is not, or by parallel steps?"
        )
    return time

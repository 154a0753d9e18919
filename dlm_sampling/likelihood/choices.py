"""Compute the log-probability of the positions that the steps of a run chose.

    log p(run) = sum_k log p(positions of step k | z_k) + log p(tokens of step k | positions, z_k)

The first part is the sampler's own (`Sampler.choice_logprob`), and belongs to the model that drew;
where it is a law of random numbers alone, it is the same under every model and cancels in ratios.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from dlm_sampling.engine.blocks import plan_blocks
from dlm_sampling.engine.drafts import grid_of
from dlm_sampling.engine.request import Request
from dlm_sampling.engine.trajectory import StepEvent, Trajectory
from dlm_sampling.likelihood.records import attention_of
from dlm_sampling.types import Canvas, Choice, Clock


def log_choices(run: Trajectory, events: Iterable[StepEvent], mask_token_id: int | None) -> Tensor:
    """Return the log-probability of the positions that each step of a row chose, float64 [B, T].

    Column k is the row's k-th step, those without a write included, since not to write has a
    probability too; 0 after its last step.

    Args:
        run: rows and settings of the run; its own events are not read.
        events: the steps, in order.
        mask_token_id: the mask, None under noise without one.

    Raises:
        ValueError: the choice of the run's sampler does not follow from its record.
    """
    request = _settings(run)
    sampler, blocks = request.sampler, request.blocks
    law = sampler.law if request.law is None else request.law
    origin = attention_of(run).long().argmax(1) if blocks.align else None
    plan = plan_blocks(
        run.editable, blocks.length, blocks.steps, origin=origin,
        steps_per_block=blocks.steps_per_block,
    )  # fmt: skip
    column = torch.arange(run.editable.shape[1], device=run.editable.device)
    unknown = run.editable.clone()
    number = torch.zeros(len(unknown), dtype=torch.int64, device=unknown.device)
    found = [number.new_zeros(0, dtype=torch.float64)]
    owners = [number.new_zeros(2, 0)]
    for event in events:
        rows = event.rows.to(unknown.device)
        were, left = unknown[rows], event.unknown.to(unknown.device)
        unknown[rows] = left
        place = (rows, event.block.to(unknown.device))
        end = place if event.last is None else (rows, event.last.to(unknown.device))
        start, stop = plan.start[place].unsqueeze(1), plan.stop[end].unsqueeze(1)
        inside = run.editable[rows] & (column >= start) & (column < stop)
        canvas = Canvas(
            event.before.to(unknown.device), were, inside, start.squeeze(1), mask_token_id
        )
        times = grid_of(request.times, unknown.device)
        clock = Clock(event.step.to(unknown.device), plan.steps[place], request.begin, times)
        greedy = law.temperature == 0.0
        here = sampler.choice_logprob(canvas, clock, Choice(were & ~left, left & ~were, greedy))
        if here is None:
            raise _refusal(run)
        found.append(here)
        owners.append(torch.stack([rows, number[rows]]))
        number[rows] += 1
    listed, (row, step) = torch.cat(found), torch.cat(owners, 1)
    width = int(number.max()) if number.numel() else 0
    return listed.new_zeros(len(number), width).index_put((row, step), listed)


def _settings(run: Trajectory) -> Request:
    """Return the settings of a run whose choices follow from its record.

    Raises:
        ValueError: they are not known, or something beside the sampler chose positions.
    """
    request = run.request
    if request is None:
        raise ValueError(
            f"positions=True: run (sampled by {run.sampler}) is a trajectory that does not tell "
            "the settings of its run: pass the output of `generate` or `sample`."
        )
    for name, beside in (
        ("guidance", request.guidance),
        ("constraint", request.constraint),
        ("start", request.start),
        ("max_nfe", request.max_nfe),
        ("fill behind its stop, eos='fill'", request.fills_behind or None),
    ):
        if beside is not None:
            raise ValueError(
                f"positions=True: the run had a {name}, on which the law of the positions depends, "
                "and no record tells how: sample without it, or leave positions=True out."
            )
    return request


def _refusal(run: Trajectory) -> ValueError:
    """Return the error for a sampler whose choice of positions has no law of its own."""
    return ValueError(
        f"positions=True: run was sampled by {run.sampler}, whose choice of positions does not "
        "follow from its record: it reads tokens that were drawn and not written, or what the "
        "model said. Sample with 'ancestral' or 'llada-random', or with a confidence order at "
        "temperature=0.0, where the canvas decides."
    )

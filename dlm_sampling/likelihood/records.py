"""Read the record of a run: its steps, its padding, and how its tokens were drawn."""

from __future__ import annotations

from dataclasses import fields, is_dataclass

import torch
from torch import Tensor

from dlm_sampling.engine.output import RunOutput
from dlm_sampling.engine.trajectory import StepEvent, Trajectory
from dlm_sampling.errors import named
from dlm_sampling.types import Drawn
from dlm_sampling.types.values import ints


def trajectory_of(output: RunOutput) -> Trajectory:
    """Return the steps of a run.

    Raises:
        TypeError: the object is not the output of a run.
        ValueError: the steps were not kept.
    """
    try:
        found = output.trajectory
    except AttributeError:
        raise TypeError(
            f"run is {named(output)}: must be the output of `generate` or `sample` with "
            "return_trajectory=True, of `generate` with return_rollout=True, its trajectory, or a "
            "Rollout; a text alone does not tell the steps that wrote it, `elbo` scores it."
        ) from None
    if found is None:
        raise ValueError(
            "output has no trajectory: call with return_trajectory=True, or `generate` with "
            "return_rollout=True, which keeps less."
        )
    return found


def chosen_rows(rows: object, count: int) -> Tensor:
    """Return the numbers of chosen rows, int64 [n], 0 to count - 1.

    Args:
        rows: a bool mask [B], or whole numbers [n], as a tensor, list, tuple or range; -1 is the
            last row.
        count: B.

    Raises:
        TypeError: it is something else.
        ValueError: it has another shape, or names a row that there is not.
    """
    wanted = "a bool mask [B] or row numbers, such as torch.tensor([0, 2]) or [0, 2]"
    try:
        at = torch.as_tensor(list(rows) if isinstance(rows, range) else rows)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"rows={rows!r}: must be {wanted}.") from None
    if at.numel() == 0:
        at = at.long()
    if at.dtype == torch.bool:
        if at.shape != (count,):
            raise ValueError(f"rows is a bool mask {tuple(at.shape)}: must be [{count}], as rows.")
        return at.nonzero().flatten()
    if at.is_floating_point() or at.is_complex():
        raise TypeError(f"rows is {at.dtype}: must be {wanted}.")
    if at.ndim != 1:
        raise ValueError(f"rows has shape {tuple(at.shape)}: must be {wanted}.")
    at = at.long()
    bad = (at < -count) | (at >= count)
    if bool(bad.any()):
        raise ValueError(f"rows has {ints(at[bad])[0]}: must be 0 to {count - 1}, the rows.")
    return torch.where(at < 0, at + count, at)


def differences(one: object, other: object, name: str = "") -> list[str]:
    """Return the fields in which two settings differ, such as "law.temperature (1.0 and 0.7)"."""
    if type(one) is not type(other) or not is_dataclass(one) or isinstance(one, type):
        return [] if one == other else [f"{name} ({one!r} and {other!r})"]
    found: list[str] = []
    for part in fields(one):
        inner = f"{name}.{part.name}" if name else part.name
        found += differences(vars(one)[part.name], vars(other)[part.name], inner)
    return found


def attention_of(trajectory: Trajectory) -> Tensor:
    """Return the attention mask of a run, bool [B, L], False at padding."""
    known = trajectory.attention_mask
    return torch.ones_like(trajectory.editable) if known is None else known.bool()


def argmax_of(trajectory: Trajectory, event: StepEvent) -> Tensor:
    """Return the tokens of a step that were taken as the argmax, bool [A, L].

    Raises:
        ValueError: a token of the step came from a law that its canvas does not give.
    """
    if event.drawn is None:
        return torch.zeros_like(event.written)
    known = event.written & trajectory.editable.to(event.rows.device)[event.rows]
    if trajectory.masked:  # positions still unknown after the step were masked again, not drawn
        known = known & ~event.unknown
    other = known & (event.drawn == Drawn.OTHERWISE)
    if bool(other.any()):
        row, position = (int(i) for i in other.nonzero()[0])
        raise ValueError(
            f"run was sampled by {trajectory.sampler}, which drew the token of row "
            f"{int(event.rows[row])}, position {position} (step {event.iteration}) from another "
            "law than the model's at the canvas before the step: its log-probability cannot be "
            f"recomputed, since {why_not(trajectory)}. {remedy(trajectory)}"
        )
    return known & (event.drawn == Drawn.ARGMAX)


def why_not(run: Trajectory) -> str:
    """Return why the tokens of a run cannot be scored, in the words of its sampler."""
    told = "" if run.request is None else run.request.sampler.unscored
    return told or (
        "its steps draw from laws that do not follow from the record, as they revise what they "
        "drew, or choose positions by what the model says"
    )


def remedy(run: Trajectory) -> str:
    """Return what to sample with instead."""
    other = "'llada-random' or 'ancestral'" if run.masked else "'ancestral' or 'tau-leaping'"
    return f"Sample with {other}, whose steps follow from their canvases."

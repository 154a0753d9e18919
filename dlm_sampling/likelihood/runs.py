"""Read what is given to `replay` as a run, and check it against the denoiser."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, cast, runtime_checkable

from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.engine.checks import check_ids
from dlm_sampling.engine.output import RunOutput
from dlm_sampling.engine.trajectory import StepEvent, Trajectory
from dlm_sampling.errors import check_whole
from dlm_sampling.likelihood.records import attention_of, trajectory_of
from dlm_sampling.likelihood.rollout import Rollout


@runtime_checkable
class WithRollout(Protocol):
    """Define an output that may hold its rollout, as that of `generate` does."""

    @property
    def rollout(self) -> Rollout | None:
        """Return the rollout, None if it was not asked for."""
        ...


def record_of(run: RunOutput | Trajectory | Rollout) -> Trajectory | Rollout:
    """Return the record of a run: its rollout if the output has one, else its trajectory.

    Raises:
        TypeError: the object is not the output of a run.
        ValueError: the steps were not kept.
    """
    if isinstance(run, Rollout | Trajectory):
        return run
    if isinstance(run, WithRollout) and run.rollout is not None:
        return run.rollout
    return trajectory_of(run)


def steps_of(record: Trajectory | Rollout) -> tuple[Trajectory, Iterable[StepEvent]]:
    """Return what all steps of a run share, and the steps."""
    if isinstance(record, Rollout):
        return record.header, record.events()
    header = record.paths()
    return header, header.events


def check_noise(denoiser: Denoiser, record: Trajectory | Rollout) -> None:
    """Check that a denoiser knows the canvases of a run.

    Raises:
        ValueError: the run was on other noise, or has a token outside of the vocabulary.
    """
    process = denoiser.process
    if record.request is not None:  # some samplers edit canvases of noise with a model of masks
        process = record.request.sampler.canvas_process(process) or process
    mask = process.mask_token_id
    if record.masked and mask is None:
        raise ValueError(
            f"run was on masks, and this denoiser ({denoiser.family}) has none: no canvas of the "
            "run means anything to it. Score with a denoiser of the same noise."
        )
    if not record.masked and mask is not None:
        raise ValueError(
            f"run was on noise without masks, and this denoiser ({denoiser.family}) knows masks: "
            "no canvas of the run means anything to it. Score with a denoiser of the same noise."
        )
    if isinstance(record, Rollout):
        tokens, attention = record.tokens, record.attention_mask
    else:
        tokens, attention = record.initial.clone(), attention_of(record)
        for event in record.paths().events:
            tokens[event.rows] = event.tokens
        if not record.events:
            return
    known = attention.to(tokens.device)
    check_ids(denoiser, tokens, known if mask is None else known & (tokens != mask))


def check_window(window: object) -> None:
    """Check the steps to score.

    Raises:
        TypeError: it is no pair of whole numbers.
        ValueError: it is not 0 <= a < b.
    """
    if window is None:
        return
    pair = cast("tuple[object, ...]", window)
    if not isinstance(window, tuple) or len(pair) != 2:
        raise TypeError(f"window={window!r}: must be a pair of whole numbers (a, b), or None.")
    for name, value in zip(("window[0]", "window[1]"), pair, strict=True):
        check_whole(name, value)
    first, last = cast("tuple[int, int]", pair)
    if not 0 <= first < last:
        raise ValueError(f"window={window!r}: must be 0 <= a < b, steps a to b - 1 of each row.")

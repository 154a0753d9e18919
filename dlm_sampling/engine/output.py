"""Define the output of a run, and its listeners."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from dlm_sampling.caches import CacheReport
from dlm_sampling.engine.trajectory import StepCallback, Trajectory


@dataclass(frozen=True)
class SampleOutput:
    """Hold the result of `sample`.

    Fields:
        tokens: int64 [B, L], the finished canvas.
        logprob: [B, L], log-probability of each token when it was last written, 0 at fixed
            positions.
        nfe: int64 [B], forward passes per row.
        work: float64 [B], columns that the row showed to those passes, in units of its whole
            canvas.  A batch may compute more: every row up to the last column shown by any.
        shared: float64 [B], of that work what another row of the batch showed in the row's place:
            texts of a prompt have one first canvas.
        steps: int64 [B], loop steps per row.
        seeds: one seed per row.
        ended: bool [B], whether the row ended at an end-of-text token, or at a complete text.
        trajectory: the steps, if requested.
        cache: which cache the run had, and what its audits found; None without one.
        forced: int64 [B], tokens that `max_nfe` had written beyond the sampler's own; None without.
    """

    tokens: Tensor
    logprob: Tensor
    nfe: Tensor
    work: Tensor
    shared: Tensor
    steps: Tensor
    seeds: tuple[int, ...]
    ended: Tensor
    trajectory: Trajectory | None
    cache: CacheReport | None = None
    forced: Tensor | None = None


class RunOutput(Protocol):
    """Define the fields that the outputs of `sample` and `generate` share."""

    @property
    def tokens(self) -> Tensor:
        """Return the finished canvases, int64 [B, L]."""
        ...

    @property
    def nfe(self) -> Tensor:
        """Return the forward passes per row, int64 [B]."""
        ...

    @property
    def seeds(self) -> Sequence[int]:
        """Return one seed per row."""
        ...

    @property
    def trajectory(self) -> Trajectory | None:
        """Return the steps, or None if they were not kept."""
        ...


@dataclass
class Listeners:
    """Hold the receivers of step events: callbacks, and the trajectory if it is kept."""

    callbacks: tuple[StepCallback, ...] = ()
    trajectory: Trajectory | None = None

    def __bool__(self) -> bool:
        """Return whether there is any receiver."""
        return bool(self.callbacks) or self.trajectory is not None

    @property
    def all(self) -> tuple[Callable[..., None], ...]:
        """Return the functions to call with each event."""
        kept = () if self.trajectory is None else (self.trajectory.events.append,)
        return (*kept, *self.callbacks)

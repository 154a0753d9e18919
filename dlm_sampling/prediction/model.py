"""Hold the settings of a run's forward passes, and count the passes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.guidance.base import Guidance
from dlm_sampling.ops import Reads
from dlm_sampling.prediction.carry import NO_CARRY, Carry
from dlm_sampling.prediction.rows import Beside
from dlm_sampling.schedules import LINEAR, Schedule
from dlm_sampling.types import TokenLaw
from dlm_sampling.types.rows import with_parts


@dataclass(frozen=True)
class Counts:
    """Count the passes of a run, one entry per batch row; the tensors are changed in place.

    Fields:
        nfe: int64 [B], forward passes; a guided pass counts 2.
        spared: float64 [B], columns hidden from the passes, in units of the row's whole canvas.
        shared: float64 [B], columns of the passes that another row showed in the row's place.
        known: int64 [B], passes that were spared, as what they would tell was predicted before.
        model_time: float64 [B], time argument of each row's latest pass on the denoiser's own
            schedule; NaN for denoisers that take no time.
    """

    nfe: Tensor
    spared: Tensor
    shared: Tensor
    known: Tensor
    model_time: Tensor

    @classmethod
    def zero(cls, rows: int, device: torch.device) -> Counts:
        """Return the counts before the first pass."""
        nfe = torch.zeros(rows, dtype=torch.int64, device=device)
        spared = torch.zeros(rows, dtype=torch.float64, device=device)
        shared, time = torch.zeros_like(spared), torch.full_like(spared, torch.nan)
        return cls(nfe, spared, shared, torch.zeros_like(nfe), time)

    def without_time(self) -> Counts:
        """Return the same counts with a separate `model_time`, for passes at other times."""
        return replace(self, model_time=torch.full_like(self.model_time, torch.nan))

    @property
    def asked(self) -> Tensor:
        """Return the passes that a run without predictions beforehand takes so far, int64 [B]."""
        return self.nfe + self.known

    @property
    def work(self) -> Tensor:
        """Return the columns shown so far, in units of the row's whole canvas, float64 [B]."""
        return self.nfe - self.spared


@dataclass(frozen=True)
class RunModel:
    """Hold a denoiser and the settings of a run that concern its passes.

    Fields:
        denoiser: the model.
        law: temperature, filters and suppressed ids of the draws, the mask id among them.
        counts: the passes of the run.
        guidance_scale: w in  u + (w + 1) (c - u); 0 is the conditional model alone.
        eager: run the forward pass at once and for every row, as the released loops do.  A model
            that carries a state is always eager, as its state must advance in every step.
        schedule: alpha(t) of the sampler's times; a time-conditioned denoiser with another schedule
            gets the time at which its own alpha has the same value.  None: the times are the
            denoiser's own.
        guidance: further passes, tilts and choices; guidance_scale is 0 then.
        reads: the statistics of draws that the steps read.
        argmax_reads: the same, of draws of the argmax beside draws of the run's law.
    """

    denoiser: Denoiser
    law: TokenLaw
    counts: Counts
    guidance_scale: float = 0.0
    eager: bool = False
    schedule: Schedule | None = None
    guidance: Guidance | None = None
    reads: Reads = field(default_factory=Reads.of_run)
    argmax_reads: Reads = field(default_factory=Reads.of_run)

    def settle(self) -> None:
        """Leave out of draws, from the second step of a run on, what the first one did not read."""
        self.reads.settled = self.argmax_reads.settled = True

    @cached_property
    def passes(self) -> int:
        """Return the forward passes per prediction: 2 with guidance, else 1."""
        return 2 if self.guidance_scale != 0.0 else 1

    @cached_property
    def own_law(self) -> TokenLaw:
        """Return the model's law: temperature 1 without the suppressed ids, and no filters."""
        return TokenLaw(suppressed=self.law.suppressed)

    @cached_property
    def argmax_law(self) -> TokenLaw:
        """Return the run's law at temperature 0, for draws of rows that take the argmax."""
        return replace(self.law, temperature=0.0)

    @property
    def networks(self) -> tuple[Denoiser, ...]:
        """Return the denoiser of every pass of a prediction."""
        if self.guidance is None:
            return (self.denoiser,) * self.passes
        others = (view.denoiser for view in self.guidance.views)
        return tuple(self.denoiser if other is None else other for other in others)

    @property
    def carrier(self) -> Denoiser | None:
        """Return a denoiser that carries a state from each of its passes to the next, or None."""
        if self.guidance is None:
            return self.denoiser if self.denoiser.carries else None
        return next((network for network in self.networks if network.carries), None)

    def first_carries(self) -> tuple[Carry, ...]:
        """Return one empty carry per pass of a prediction; none for denoisers without a state."""
        return () if self.carrier is None else (NO_CARRY,) * len(self.networks)

    def time_of(self, t: Tensor, beside: Beside | None = None) -> Tensor:
        """Return the time that a time-conditioned denoiser gets for the sampler's t, float64 [A].

        That is the time at which its own alpha is the share of clean tokens that it is shown:
        alpha(t) in the current block, and 1 or 0 in the blocks `beside` it.
        """
        schedule = self.schedule
        if schedule is None or (beside is None and self.denoiser.schedule in (None, schedule)):
            return t
        alpha = schedule.alpha(t)
        mixed = alpha if beside is None else beside.alpha_of_all(alpha)
        if self.denoiser.schedule in (None, schedule):
            return torch.where(mixed == alpha, t, schedule.time_of(mixed))
        return time_at(self.denoiser, mixed)


def time_at(denoiser: Denoiser, alpha: Tensor) -> Tensor:
    """Return the denoiser's time at which the share of clean tokens is alpha, float64 like alpha.

    A denoiser that states no schedule is taken to count time as the share of noise, t = 1 - alpha.
    """
    schedule = LINEAR if denoiser.schedule is None else denoiser.schedule
    return schedule.time_of(alpha)


def full_law(law: TokenLaw, denoiser: Denoiser, *, suppress_mask: bool = True) -> TokenLaw:
    """Return the law with all ids suppressed that the denoiser never writes, as the mask id."""
    banned = {*law.suppressed, *denoiser.suppressed}
    if suppress_mask and denoiser.mask_token_id is not None:
        banned.add(denoiser.mask_token_id)
    # The law was checked when it was made, and nothing that is derived of it reads these ids.
    return with_parts(law, suppressed=tuple(sorted(banned)))

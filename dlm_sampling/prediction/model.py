"""Holds what a run fixes about its forward passes, and counts them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.prediction.carry import NO_CARRY, Carry
from dlm_sampling.schedules import Schedule
from dlm_sampling.types import TokenLaw


@dataclass(frozen=True)
class Counts:
    """The passes of a run so far, one entry per batch row, changed in place.

    Fields:
        nfe: int64 [B], forward passes; a guided pass counts 2.
        spared: float64 [B], columns that the passes did not compute, in units of the row's whole
            canvas.
        model_time: float64 [B], time argument of each row's latest pass on the denoiser's own
            schedule; NaN for denoisers that take no time.
    """

    nfe: Tensor
    spared: Tensor
    model_time: Tensor

    @classmethod
    def zero(cls, rows: int, device: torch.device) -> Counts:
        """Nothing has run yet."""
        nfe = torch.zeros(rows, dtype=torch.int64, device=device)
        spared = torch.zeros(rows, dtype=torch.float64, device=device)
        return cls(nfe, spared, torch.full_like(spared, torch.nan))

    def without_time(self) -> Counts:
        """The same counts for passes whose times are not those of the run's own steps."""
        return replace(self, model_time=torch.full_like(self.model_time, torch.nan))

    @property
    def work(self) -> Tensor:
        """Columns that the passes computed, in units of the row's whole canvas, float64 [B]."""
        return self.nfe - self.spared


@dataclass(frozen=True)
class RunModel:
    """A denoiser with everything that a run fixes about its passes.

    Fields:
        denoiser: the model.
        law: how tokens are drawn; the mask id is already among its suppressed ids.
        counts: the passes of the run.
        guidance_scale: w in  u + (w + 1) (c - u); 0 is the conditional model alone.
        eager: run the forward pass at once and for every row, as the released loops do; so do
            models that carry a state, which has to advance in every step.
        schedule: alpha(t) of the sampler's times, or None; a time-conditioned denoiser with another
            schedule is told the time at which it has the same alpha.
    """

    denoiser: Denoiser
    law: TokenLaw
    counts: Counts
    guidance_scale: float = 0.0
    eager: bool = False
    schedule: Schedule | None = None

    @property
    def passes(self) -> int:
        """Forward passes per prediction: 2 with guidance, else 1."""
        return 2 if self.guidance_scale != 0.0 else 1

    def first_carries(self) -> tuple[Carry, ...]:
        """One empty carry per kind of pass, none for a denoiser without a state."""
        return (NO_CARRY,) * (self.passes if self.denoiser.carries else 0)

    def time_of(self, t: Tensor) -> Tensor:
        """The time, on the denoiser's own schedule, of the level that the sampler has at t."""
        own = self.denoiser.schedule
        if own is None or self.schedule is None or own == self.schedule:
            return t
        return own.time_of(self.schedule.alpha(t))


def full_law(law: TokenLaw, denoiser: Denoiser, *, suppress_mask: bool = True) -> TokenLaw:
    """The law with all that a denoiser never writes among its suppressed ids."""
    banned = {*law.suppressed, *denoiser.suppressed}
    if suppress_mask and denoiser.mask_token_id is not None:
        banned.add(denoiser.mask_token_id)
    return replace(law, suppressed=tuple(sorted(banned)))

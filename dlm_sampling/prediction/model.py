"""Hold the settings of a run's forward passes, and count the passes."""

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
    """Count the passes of a run, one entry per batch row; the tensors are changed in place.

    Fields:
        nfe: int64 [B], forward passes; a guided pass counts 2.
        spared: float64 [B], columns that the passes left out, in units of the row's whole canvas.
        model_time: float64 [B], time argument of each row's latest pass on the denoiser's own
            schedule; NaN for denoisers that take no time.
    """

    nfe: Tensor
    spared: Tensor
    model_time: Tensor

    @classmethod
    def zero(cls, rows: int, device: torch.device) -> Counts:
        """Return the counts before the first pass."""
        nfe = torch.zeros(rows, dtype=torch.int64, device=device)
        spared = torch.zeros(rows, dtype=torch.float64, device=device)
        return cls(nfe, spared, torch.full_like(spared, torch.nan))

    def without_time(self) -> Counts:
        """Return the same counts with a separate `model_time`, for passes at other times."""
        return replace(self, model_time=torch.full_like(self.model_time, torch.nan))

    @property
    def work(self) -> Tensor:
        """Return the columns computed so far, in units of the row's whole canvas, float64 [B]."""
        return self.nfe - self.spared


@dataclass(frozen=True)
class RunModel:
    """Hold a denoiser and the settings of a run that concern its passes.

    Fields:
        denoiser: the model.
        law: how tokens are drawn; the mask id is already among its suppressed ids.
        counts: the passes of the run.
        guidance_scale: w in  u + (w + 1) (c - u); 0 is the conditional model alone.
        eager: run the forward pass at once and for every row, as the released loops do.  A model
            that carries a state is always eager, as its state must advance in every step.
        schedule: alpha(t) of the sampler's times, or None; a time-conditioned denoiser with another
            schedule gets the time at which its own alpha has the same value.
    """

    denoiser: Denoiser
    law: TokenLaw
    counts: Counts
    guidance_scale: float = 0.0
    eager: bool = False
    schedule: Schedule | None = None

    @property
    def passes(self) -> int:
        """Return the forward passes per prediction: 2 with guidance, else 1."""
        return 2 if self.guidance_scale != 0.0 else 1

    def first_carries(self) -> tuple[Carry, ...]:
        """Return one empty carry per pass of a prediction; none for a denoiser without a state."""
        return (NO_CARRY,) * (self.passes if self.denoiser.carries else 0)

    def time_of(self, t: Tensor) -> Tensor:
        """Return the time on the denoiser's schedule whose alpha equals the sampler's alpha(t)."""
        own = self.denoiser.schedule
        if own is None or self.schedule is None or own == self.schedule:
            return t
        return own.time_of(self.schedule.alpha(t))


def full_law(law: TokenLaw, denoiser: Denoiser, *, suppress_mask: bool = True) -> TokenLaw:
    """Return the law with all ids suppressed that the denoiser never writes, as the mask id."""
    banned = {*law.suppressed, *denoiser.suppressed}
    if suppress_mask and denoiser.mask_token_id is not None:
        banned.add(denoiser.mask_token_id)
    return replace(law, suppressed=tuple(sorted(banned)))

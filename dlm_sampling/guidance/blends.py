"""Blend several denoisers: products of models, contrastive pairs, one after another in time.

    product     log p~ = sum_k b_k log p_k - log Z
    contrast    log p~ = (1 + b) log p - b log p_amateur - log Z   where p(v) >= a max p
    stitch      p~ = p at times t <= switch, the other model's law before that

Products: Du et al. 2023, arXiv:2302.11552, position by position; not the product law of whole rows.
Contrast: Li et al. 2022, arXiv:2210.15097; O'Brien and Lewis 2023, arXiv:2309.09117.  Stitch: Pan
et al. 2024, "T-Stitch", arXiv:2402.14167: a small model writes the outline, a large one the rest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.errors import check_fields, check_real, named
from dlm_sampling.guidance.base import Guidance, Moment, View


def _checked(name: str, denoiser: object) -> None:
    if not isinstance(denoiser, Denoiser):
        raise TypeError(f"{name} is {named(denoiser)}: must be a Denoiser; try wrap(network).")


def _constant(moment: Moment, weights: Sequence[float]) -> Tensor:
    """Return the same weights in every row, float64 [K, n]."""
    found = torch.tensor(weights, dtype=torch.float64, device=moment.t.device)
    return found.unsqueeze(1).expand(-1, len(moment.t))


@dataclass(frozen=True)
class Product(Guidance):
    """Multiply the laws of several models, p^b0 p1^b1 p2^b2.

    Fields:
        others: the denoisers beside the run's own.
        powers: b_k, that of the run's own denoiser first.

    NFE: one per power that is not 0.
    """

    others: tuple[Denoiser, ...]
    powers: tuple[float, ...]

    def __post_init__(self) -> None:
        for i, other in enumerate(self.others):
            _checked(f"others[{i}]", other)
        for i, power in enumerate(self.powers):
            check_real(f"powers[{i}]", power)
        if len(self.powers) != len(self.others) + 1:
            raise ValueError(
                f"powers has {len(self.powers)} entries: must be {len(self.others) + 1}, one for "
                "the run's own denoiser and one for each of others."
            )
        if not any(self.powers):
            raise ValueError("powers are all 0: nothing is left of any law; give one above 0.")

    @property
    def views(self) -> tuple[View, ...]:
        """Return a pass of every model."""
        return (View(), *(View(other) for other in self.others))

    def weights(self, moment: Moment) -> Tensor:
        """Return the powers."""
        return _constant(moment, self.powers)


@dataclass(frozen=True)
class Contrast(Guidance):
    """Prefer what a model says and a weaker one does not.

    Fields:
        amateur: the weaker denoiser.
        strength: b >= 0; 0 is the run's own denoiser alone.
        plausible: a in [0, 1): tokens less probable than a times the largest are left out, so that
            a small difference of two tiny probabilities writes nothing.

    NFE: 2, or 1 with strength 0.
    """

    amateur: Denoiser
    strength: float = 0.5
    plausible: float = 0.1

    def __post_init__(self) -> None:
        _checked("amateur", self.amateur)
        check_fields(self)
        if not 0.0 <= self.strength < math.inf:
            raise ValueError(f"strength={self.strength}: must be finite and >= 0; try 0.5.")
        if not 0.0 <= self.plausible < 1.0:
            raise ValueError(f"plausible={self.plausible}: must be in [0, 1); try 0.1.")

    @property
    def views(self) -> tuple[View, ...]:
        """Return the passes of both models."""
        return View(), View(self.amateur)

    def weights(self, moment: Moment) -> Tensor:
        """Return 1 + b and -b."""
        return _constant(moment, (1.0 + self.strength, -self.strength))

    def keeps(self, first: Tensor) -> Tensor | None:
        """Return the plausible tokens; all of them with strength 0."""
        if self.strength == 0.0 or self.plausible == 0.0:
            return None
        return first >= first.amax(-1, keepdim=True) + math.log(self.plausible)


@dataclass(frozen=True)
class Stitch(Guidance):
    """Ask another model while the canvas is noisy, and the run's own from a time on.

    Fields:
        early: the denoiser of times t > switch.
        switch: in [0, 1]; 1 is the run's own denoiser alone.

    NFE: 1.
    """

    early: Denoiser
    switch: float = 0.5

    def __post_init__(self) -> None:
        _checked("early", self.early)
        check_fields(self)
        if not 0.0 <= self.switch <= 1.0:
            raise ValueError(f"switch={self.switch}: must be in [0, 1]; try 0.5.")

    @property
    def views(self) -> tuple[View, ...]:
        """Return the passes of both models, of which a row takes one."""
        return View(), View(self.early)

    def weights(self, moment: Moment) -> Tensor:
        """Return 1 for the model whose time it is."""
        early = moment.t > self.switch
        return torch.stack((~early, early)).double()

"""Move laws towards an observation by gradients through quantised expectations: APS.

    e_i = sum_v p_i(v) E_v,   q_i = the code E_k nearest to e_i
    l <- l - rate d/dl |y - A(q)|^2,   straight through: dq_i / de_i = 1;   n times

The loss is 0 as soon as the expectation rounds to the right code, so that this decides the most
probable token rather than its probability.

A reconstruction from the abstract of Rout et al. 2025, "Test-Time Anchoring for Discrete Diffusion
Posterior Sampling", arXiv:2510.02291; the authors' code was not seen.  Its second half, that
confident tokens (anchors) are kept and the rest is masked again, is a sampler's rule: "llada" draws
all positions and keeps the most confident ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dlm_sampling.errors import check_fields, named
from dlm_sampling.guidance.base import Guidance, Moment
from dlm_sampling.guidance.classifier import gradient_of


@dataclass(frozen=True)
class AnchoredPosterior(Guidance):
    """Tilt laws by gradient steps on a loss of quantised embeddings; reconstructed from APS.

    Fields:
        loss: maps embeddings float [n, L, d] to losses [n], with a graph; rows stand alone.
        codebook: E, float [V, d], or None for one-hot codes, d = V.
        rate: of the gradient steps; 0 is the run without it.
        gradient_steps: n, per prediction.

    NFE: none; n forward and backward passes of the loss per step.
    """

    loss: Callable[[Tensor], Tensor]
    codebook: Tensor | None = None
    rate: float = 1.0
    gradient_steps: int = 5

    def __post_init__(self) -> None:
        if not callable(self.loss):
            raise TypeError(f"loss is {named(self.loss)}: must be a function of embeddings.")
        check_fields(self)
        if not 0.0 <= self.rate < math.inf:
            raise ValueError(f"rate={self.rate}: must be finite and >= 0; 0 is no guidance.")
        if self.gradient_steps < 0:
            raise ValueError(f"gradient_steps={self.gradient_steps}: must be at least 0; try 5.")

    @property
    def tilts(self) -> bool:
        """Return whether any step is taken."""
        return self.rate != 0.0 and self.gradient_steps > 0

    @property
    def keeps_rates(self) -> bool:
        """Return True: only moves are tilted."""
        return True

    def tilt(self, moment: Moment, where: Tensor, log_p: Callable[[], Tensor]) -> Tensor:
        """Return what n gradient steps add to the log-laws, float64 [n, L, V]."""
        first = log_p().double()
        added, at = torch.zeros_like(first), where.unsqueeze(-1)
        codes = torch.eye(first.shape[-1]).to(first)
        if self.codebook is not None:
            codes = self.codebook.to(first)

        def loss(logits: Tensor) -> Tensor:
            return self.loss(quantised(logits.softmax(-1) @ codes, codes))

        for _ in range(self.gradient_steps):
            step = gradient_of("loss", loss, first + added)
            added = added - self.rate * step.masked_fill(~at, 0.0)
        return added


def quantised(mean: Tensor, codes: Tensor) -> Tensor:
    """Return the nearest code of each mean [..., d], with the gradient of the mean itself."""
    nearest = codes[torch.cdist(mean.detach().flatten(0, 1), codes).argmin(1)].view(mean.shape)
    return nearest + (mean - mean.detach())

"""Propose from tilted laws and weigh by what the tilt changed: twisted sequential Monte Carlo.

    q(v | z) = p(v | z) exp(tilt(v)) / Z(z)                              of a guidance
    log G_k  = log psi(z_k) - log psi(z_{k-1}) + sum_i log p(v_i | z_{k-1}) - log q(v_i | z_{k-1})
    last factor  exp(r(x)) / psi(x),   psi(z_0) = 1,   i the positions that step k wrote

The law is p(x) exp(r(x)) / Z whatever psi and the tilt are; they decide how much the weights
differ.  With psi(z) = E[exp r | z] and the exact tilt log psi(z, v at i) - log psi(z), steps of one
position have the same weights for all particles: a single one is an exact draw.  The tilt is a
`guidance.Classifier` of log psi, exact or to first order, or any other guidance of masks.

Wu et al. 2023, "Practical and Asymptotically Exact Conditional Sampling in Diffusion Models" (TDS),
arXiv:2306.17775; on tokens with gradients, arXiv:2505.22524.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.errors import named
from dlm_sampling.prediction.unguided import unguided_log_prob_of
from dlm_sampling.smc.targets import Reward, Weighing, check_weighable
from dlm_sampling.types import Sampler


@dataclass(frozen=True)
class TwistedTarget:
    """Weigh particles of a guided proposal towards p(x) exp(r(x)) / Z.

    Pass the guidance to `sample_particles(guidance=)`.  Temperature and filters of the law are
    part of the proposal and are corrected too, but a token that they ban is never seen.

    Fields:
        log_twist: log psi, of canvases int64 [n, L] with masks at unknown positions, [n].
        reward: r, of finished rows; None: log psi, which then is a reward of finished rows.
    """

    log_twist: Callable[[Tensor], Tensor]
    reward: Reward | None = None

    def __post_init__(self) -> None:
        for name, given in (("log_twist", self.log_twist), ("reward", self.reward)):
            if given is not None and not callable(given):
                raise TypeError(f"{name} is {named(given)}: must be a function of canvases.")

    @property
    def looks_ahead(self) -> bool:
        """Return False: it reads what was written."""
        return False

    def check(self, denoiser: Denoiser, sampler: Sampler[Any]) -> None:
        """Refuse samplers whose steps are more than the draws of what they write."""
        check_weighable("TwistedTarget", denoiser, sampler)

    def begin(self, rows: int, device: torch.device) -> Tensor:
        """Return log psi(z_0) = 0."""
        return torch.zeros(rows, 1, dtype=torch.float64, device=device)

    def weigh(self, step: Weighing, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Return the growth of log psi, and what the proposal changed."""
        now = self.log_twist(step.after).double()
        own = unguided_log_prob_of(step.prediction, step.after, step.written)
        proposed = torch.where(step.written, step.step.logprob.double(), 0.0)
        return now - memory[:, 0] + (own - proposed).sum(1), now.unsqueeze(1)

    def end(self, tokens: Tensor, memory: Tensor) -> Tensor:
        """Return r(x) - log psi(x)."""
        reward = self.log_twist if self.reward is None else self.reward
        return reward(tokens).double() - memory[:, 0]

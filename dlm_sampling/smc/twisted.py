"""Propose from tilted laws and weigh by what the tilt changed: twisted sequential Monte Carlo.

    q(v | z) = p(v | z) exp(tilt(v)) / Z(z)                              of a guidance
    log G_k  = log psi(z_k) - log psi(z_{k-1}) + sum_i log p(v_i | z_{k-1}) - log q(v_i | z_{k-1})
    last factor  exp(r(x)) / psi(x),   psi(z_0) = 1,   i the positions that step k wrote

Under noise without a mask p(v | z) and q(v | z) are laws of the next token, which the solver makes
of the model and of the guided model, and i all positions that it draws, in every step.

The law is p(x) exp(r(x)) / Z whatever psi and the tilt are; they decide how much the weights
differ.  With psi(z) = E[exp r | z] and the exact tilt log psi(z, v at i) - log psi(z), steps of one
position have the same weights for all particles: a single one is an exact draw.  The tilt is a
`guidance.Classifier` of log psi, exact or to first order, or any other guidance of laws.

Wu et al. 2023, "Practical and Asymptotically Exact Conditional Sampling in Diffusion Models" (TDS),
arXiv:2306.17775; on tokens with gradients, arXiv:2505.22524.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.engine.request import Request
from dlm_sampling.errors import named
from dlm_sampling.guidance.base import one_per_row
from dlm_sampling.samplers.glauber import Glauber
from dlm_sampling.samplers.parts.grid import GridSampler
from dlm_sampling.samplers.parts.revising_grid import RevisingGrid
from dlm_sampling.samplers.predictor_corrector import PredictorCorrector
from dlm_sampling.smc.targets import (
    Reward,
    Weighing,
    check_drawn,
    check_none_filled,
    check_weighable,
)

_RULED = GridSampler | RevisingGrid | PredictorCorrector | Glauber
"""Samplers that draw each token by a rule of the prediction at the canvas alone."""


@dataclass(frozen=True)
class TwistedTarget:
    """Weigh particles of a guided proposal towards p(x) exp(r(x)) / Z.

    Pass the guidance to `sample_particles(guidance=)`.  Temperature and filters of the law are
    part of the proposal and are corrected too, but a token that they ban is never seen.  Nor is
    one that a guided step cannot reach: a few Euler steps under uniform noise, whose clamped rates
    leave a token no chance to stay, estimate another law.  Use "ancestral" or "tau-leaping" there.

    Fields:
        log_twist: log psi, of canvases int64 [n, L], with masks at unknown positions or with
            noise, [n].
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

    def check(self, denoiser: Denoiser, request: Request) -> None:
        """Refuse samplers whose steps are more than the draws of what they write."""
        sampler, noise = request.sampler, denoiser.process.name
        if denoiser.mask_token_id is not None:
            check_weighable("TwistedTarget", denoiser, sampler)
        elif not isinstance(sampler, _RULED) or noise not in sampler.scored_on:
            raise ValueError(
                f"TwistedTarget: the law of a step of {type(sampler).__name__} on {noise} noise "
                "does not follow from one prediction; use 'ancestral', 'euler', 'tweedie', "
                "'flow-matching' or another solver of one stage."
            )
        check_drawn("TwistedTarget", denoiser, request)

    def begin(self, rows: int, device: torch.device) -> Tensor:
        """Return log psi(z_0) = 0."""
        return torch.zeros(rows, 1, dtype=torch.float64, device=device)

    def weigh(self, step: Weighing, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Return the growth of log psi, and what the proposal changed."""
        now = one_per_row("log_twist", self.log_twist(step.after), len(step.after))
        if step.retake is None:
            check_none_filled("TwistedTarget", step)
            own = step.own.log_prob_of(step.after, step.written).double()
            ratio = (own - step.step.logprob.double()).where(step.written, 0.0).sum(1)
        else:
            ratio = step.retake(step.own) - step.retake(step.prediction)
        return growth(memory[:, 0], now) + ratio, now.unsqueeze(1)

    def end(self, tokens: Tensor, memory: Tensor) -> Tensor:
        """Return r(x) - log psi(x)."""
        name, reward = ("reward", self.reward) if self.reward else ("log_twist", self.log_twist)
        return growth(memory[:, 0], one_per_row(name, reward(tokens), len(tokens)))


def growth(before: Tensor, after: Tensor) -> Tensor:
    """Return after - before, and 0 where before is -inf: what has weight 0 keeps it."""
    return torch.where(before == -torch.inf, 0.0, after - before)

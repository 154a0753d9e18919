"""Take ancestral steps that may mask written tokens again: ReMDM.

    x_t = m:   q(v) = p0(v) (alpha_s - (1 - sigma) alpha_t) / (1 - alpha_t)
               q(m) = (1 - alpha_s - sigma alpha_t) / (1 - alpha_t)
    x_t != m:  q(x_t) = 1 - sigma,   q(m) = sigma
    0 <= sigma <= sigma_max = min{1, (1 - alpha_s) / alpha_t}

Wang et al. 2025, "Remasking Discrete Diffusion Models with Inference-Time Scaling",
arXiv:2503.00307, eq. 4-6. The schedule is the paper's, alpha(t) = 1 - t.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from dlm_sampling.errors import check_fields
from dlm_sampling.ops import Stream
from dlm_sampling.samplers.base import SamplerBase
from dlm_sampling.samplers.parts.checks import check_t_end, unit_interval
from dlm_sampling.samplers.parts.choices import log_moves
from dlm_sampling.samplers.parts.remasking import (
    Rates,
    remask_probs,
    reveal_and_remask,
    sigma_max,
    unmask_prob,
)
from dlm_sampling.samplers.registry import register
from dlm_sampling.schedules import grid_time
from dlm_sampling.types import Canvas, Choice, Clock, Predict, RandomSource, Step, TokenLaw


@runtime_checkable
class RemaskRate(Protocol):
    """Compute the rate of masking again between t and s."""

    @property
    def reads_tokens(self) -> bool:
        """Return whether the rate depends on the probabilities of the written tokens."""
        ...

    def __call__(self, t: Tensor, s: Tensor, confidence: Tensor, committed: Tensor) -> Rates:
        """Return the rates of a step from t to s.

        t > s float64 [B, 1]; confidence [B, L], probability of each token when it was written;
        committed bool [B, L].
        """
        ...


@dataclass(frozen=True)
class Cap:
    """Cap the rate, sigma = min(eta, sigma_max)."""

    eta: float = 0.008
    reads_tokens = False

    def __post_init__(self) -> None:
        check_fields(self)
        unit_interval("eta", self.eta, "the paper uses 0.008")

    def __call__(self, t: Tensor, s: Tensor, confidence: Tensor, committed: Tensor) -> Rates:
        """Return sigma, section 4.1."""
        return Rates(1.0 - t, 1.0 - s, sigma_max(1.0 - t, 1.0 - s).clamp(max=self.eta))


@dataclass(frozen=True)
class Rescale:
    """Scale the rate, sigma = eta sigma_max."""

    eta: float = 0.015
    reads_tokens = False

    def __post_init__(self) -> None:
        check_fields(self)
        unit_interval("eta", self.eta, "the paper uses 0.015")

    def __call__(self, t: Tensor, s: Tensor, confidence: Tensor, committed: Tensor) -> Rates:
        """Return sigma, section 4.1."""
        return Rates(1.0 - t, 1.0 - s, self.eta * sigma_max(1.0 - t, 1.0 - s))


@dataclass(frozen=True)
class Confidence:
    """Mask the least confident tokens most, sigma_i = sigma_max softmax_i(-confidence).

    The softmax is over the written positions; sigma is 0 at masks.
    """

    reads_tokens = True

    def __call__(self, t: Tensor, s: Tensor, confidence: Tensor, committed: Tensor) -> Rates:
        """Return sigma, section 4.1; rows without a written token have sigma 0."""
        weight = torch.softmax(
            (-confidence).masked_fill(~committed, float("-inf")), dim=1
        ).nan_to_num(nan=0.0)
        return Rates(1.0 - t, 1.0 - s, sigma_max(1.0 - t, 1.0 - s) * weight)


@dataclass(frozen=True)
class Loop:
    """Unmask to alpha_on before t_on, remask with sigma = eta until t_off, then finish.

    eta must be at most (1 - alpha_on) / alpha_on.  A step that crosses t_on stops at alpha_on
    unless `overshoot` is set; the released code lets alpha_s exceed it, and even 1, on coarse
    grids.
    """

    eta: float = 0.02
    t_on: float = 0.55
    t_off: float = 0.05
    alpha_on: float = 0.9
    overshoot: bool = False
    reads_tokens = False

    def __post_init__(self) -> None:
        check_fields(self)
        if not 0.0 < self.t_off < self.t_on < 1.0:
            raise ValueError(
                f"t_on={self.t_on}, t_off={self.t_off}: need 0 < t_off < t_on < 1; "
                "the paper uses 0.55 and 0.05."
            )
        if not 0.0 < self.alpha_on < 1.0:
            raise ValueError(f"alpha_on={self.alpha_on}: must be in (0, 1); the paper uses 0.9.")
        bound = (1.0 - self.alpha_on) / self.alpha_on
        if not 0.0 <= self.eta <= bound:
            raise ValueError(
                f"eta={self.eta}: must be in [0, (1 - alpha_on) / alpha_on = {bound:.4g}]; "
                "the paper uses 0.02."
            )

    def __call__(self, t: Tensor, s: Tensor, confidence: Tensor, committed: Tensor) -> Rates:
        """Return sigma in the three phases of t, section 4.2."""
        before, after = t > self.t_on, t <= self.t_off
        alpha_t, alpha_s = self.alpha(t, before, after), self.alpha(s, before, after)
        if not self.overshoot:
            alpha_s = torch.where(before, alpha_s.clamp(max=self.alpha_on), alpha_s)
        return Rates(
            alpha_t, alpha_s, torch.full_like(t, self.eta).masked_fill(before | after, 0.0)
        )

    def alpha(self, t: Tensor, before: Tensor, after: Tensor) -> Tensor:
        """Return (1 - t) alpha_on / (1 - t_on);  alpha_on;  1 - t (1 - alpha_on) / t_off."""
        rising = (1.0 - t) * self.alpha_on / (1.0 - self.t_on)
        finishing = 1.0 - t * (1.0 - self.alpha_on) / self.t_off
        return torch.where(before, rising, torch.where(after, finishing, self.alpha_on))


@dataclass(frozen=True)
class ForwardBackward:
    """Take a step of noise and a longer one back, sigma = (alpha_s - alpha_t) / alpha_t.

    sigma is 1 at alpha_t = 0.  Where it exceeds sigma_max the posterior of the module docstring has
    a negative mask probability; it is clamped to 0, which is what the released race over the raw
    weights amounts to.  Campbell et al. 2022, "A Continuous Time Framework for Discrete Denoising
    Models", arXiv:2205.14987; the ReMDM paper, section 5.
    """

    reads_tokens = False

    def __call__(self, t: Tensor, s: Tensor, confidence: Tensor, committed: Tensor) -> Rates:
        """Return sigma: as much is masked again as a forward step from s to t masks."""
        sigma = (t - s) / (1.0 - t)
        return Rates(1.0 - t, 1.0 - s, torch.where(t < 1.0, sigma, 1.0))


@dataclass(frozen=True)
class Switch:
    """Use `rate` while t_off < t <= t_on, and no remasking outside: section 4.2.

    Fields:
        rate: any other rate on the schedule alpha(t) = 1 - t.
        t_on: remasking begins once t has fallen to here.
        t_off: remasking ends once t has fallen to here.
    """

    rate: RemaskRate
    t_on: float = 1.0
    t_off: float = 0.0

    def __post_init__(self) -> None:
        check_fields(self)
        if not 0.0 <= self.t_off < self.t_on <= 1.0:
            raise ValueError(
                f"t_on={self.t_on}, t_off={self.t_off}: need 0 <= t_off < t_on <= 1; "
                "1 and 0 remask throughout."
            )

    @property
    def reads_tokens(self) -> bool:
        """Return whether the rate of the switched part depends on those probabilities."""
        return self.rate.reads_tokens

    def __call__(self, t: Tensor, s: Tensor, confidence: Tensor, committed: Tensor) -> Rates:
        """Return the rate's sigma inside (t_off, t_on], 0 outside."""
        rates = self.rate(t, s, confidence, committed)
        return rates._replace(
            sigma=rates.sigma.masked_fill((t > self.t_on) | (t <= self.t_off), 0.0)
        )


class ReMDMState(NamedTuple):
    """Hold the probabilities of the written tokens, which the confidence rate reads."""

    confidence: (
        Tensor  # float64 [B, L], probability of each token when it was written; 0 where masked
    )


@dataclass(frozen=True)
class ReMDM(SamplerBase[ReMDMState]):
    """Take ancestral steps with remasking at rate `rate`, and the argmax of masks that are left.

    Fields:
        rate: Cap, Rescale, Confidence, Loop or ForwardBackward; or one of them within a Switch.
        t_end: the grid runs from 1 to t_end in `steps` equal steps.

    The default law is the released nucleus, top_p 0.9 without the token that crosses it; a law with
    crossing="include" gives the rule of transformers.

    NFE: number of steps that reveal something, at most steps + 1.
    """

    rate: RemaskRate = Cap()
    t_end: float = 1e-5

    law = TokenLaw(top_p=0.9, crossing="exclude")
    paper = "Wang et al. 2025, arXiv:2503.00307"
    nfe = "steps that reveal something; at most steps + 1"
    clock_use = "times"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_t_end(self.t_end)

    @property
    def revises(self) -> bool:
        """Return True: written tokens may be masked again."""
        return True

    @property
    def exact(self) -> bool:
        """Return False for the confidence rate, whose positions depend on the drawn tokens."""
        return not self.rate.reads_tokens

    def schedule_length(self, steps: int) -> int:
        """Return the grid's steps and the last argmax."""
        return steps + 1

    def init(self, canvas: Canvas) -> ReMDMState:
        """Return a state in which nothing has been written."""
        return ReMDMState(
            torch.zeros(canvas.tokens.shape, dtype=torch.float64, device=canvas.tokens.device)
        )

    def rates_at(self, clock: Clock, confidence: Tensor, committed: Tensor) -> Rates:
        """Return the rates of the step at the clock; confidence and committed as in the rate."""
        t, s = (
            clock.at(grid_time(clock.step + k, clock.steps, self.t_end), self.t_end) for k in (0, 1)
        )
        return self.rate(t.unsqueeze(1), s.unsqueeze(1), confidence, committed)

    def step(
        self, state: ReMDMState, canvas: Canvas, clock: Clock, predict: Predict, rng: RandomSource
    ) -> tuple[ReMDMState, Step]:
        """Move every row from x_t to x_s."""
        last = (clock.step >= clock.steps).unsqueeze(1)
        rates = self.rates_at(clock, state.confidence, canvas.committed)
        u = rng.uniform(Stream.COMMIT, canvas.tokens)
        where = canvas.eligible & (last | (u < unmask_prob(rates)))
        remask = canvas.committed & ~last & (u < rates.sigma)
        # Not t: the loop holds a level of its own, and some rates leave more masks than alpha says.
        prediction = predict(canvas.tokens, canvas.unknown_fraction)
        draw = prediction.draw(where, rng, greedy=last.squeeze(1))
        confidence = torch.where(where, draw.logprob.double().exp(), state.confidence).masked_fill(
            remask, 0.0
        )
        return ReMDMState(confidence), reveal_and_remask(canvas, where, remask, draw)

    def choice_logprob(self, canvas: Canvas, clock: Clock, choice: Choice) -> Tensor | None:
        """Return the law of independent choices, None for a rate that reads probabilities."""
        if self.rate.reads_tokens:
            return None
        nothing = torch.zeros_like(canvas.tokens, dtype=torch.float64)
        rates = self.rates_at(clock, nothing, canvas.committed)
        return log_moves(canvas, choice, unmask_prob(rates), rates.sigma, clock.step >= clock.steps)

    def transition_probs(
        self, canvas: Canvas, log_p0: Tensor, t: Tensor, s: Tensor, confidence: Tensor | None = None
    ) -> Tensor:
        """Return the exact law of x_s given x_t, [B, L, V]; t > s float64 broadcast to [B, 1]."""
        if confidence is None:
            confidence = torch.zeros_like(canvas.tokens, dtype=torch.float64)
        rates = self.rate(t, s, confidence, canvas.committed)
        return remask_probs(canvas, log_p0, rates)


def _switched(rate: RemaskRate, t_on: float, t_off: float) -> RemaskRate:
    switch = Switch(rate, t_on, t_off)  # which checks the times
    return rate if (t_on, t_off) == (1.0, 0.0) else switch


def remdm_cap(
    eta: float = 0.008, t_on: float = 1.0, t_off: float = 0.0, t_end: float = 1e-5
) -> ReMDM:
    """Run ReMDM with a capped remasking rate, sigma = min(eta, sigma_max).

    Args:
        eta: largest probability of masking a token again, in [0, 1].
        t_on: tokens are masked again at times t <= t_on.
        t_off: and at times t > t_off.
        t_end: the time at which the grid ends.
    """
    return ReMDM(_switched(Cap(eta), t_on, t_off), t_end)


def remdm_rescale(
    eta: float = 0.015, t_on: float = 1.0, t_off: float = 0.0, t_end: float = 1e-5
) -> ReMDM:
    """Run ReMDM with a rescaled remasking rate, sigma = eta sigma_max.

    Args:
        eta: share of the largest rate, in [0, 1].
        t_on: tokens are masked again at times t <= t_on.
        t_off: and at times t > t_off.
        t_end: the time at which the grid ends.
    """
    return ReMDM(_switched(Rescale(eta), t_on, t_off), t_end)


def remdm_conf(t_on: float = 1.0, t_off: float = 0.0, t_end: float = 1e-5) -> ReMDM:
    """Run ReMDM, and mask the least confident written tokens most.

    Args:
        t_on: tokens are masked again at times t <= t_on.
        t_off: and at times t > t_off.
        t_end: the time at which the grid ends.
    """
    return ReMDM(_switched(Confidence(), t_on, t_off), t_end)


def remdm_loop(
    eta: float = 0.02,
    t_on: float = 0.55,
    t_off: float = 0.05,
    alpha_on: float = 0.9,
    overshoot: bool = False,
    t_end: float = 1e-5,
) -> ReMDM:
    """Run ReMDM: unmask, hold at alpha_on while it remasks and refines, then finish.

    Args:
        eta: probability of masking a token again, at most (1 - alpha_on) / alpha_on.
        t_on: time at which the level alpha_on is reached.
        t_off: time until which it is held.
        alpha_on: share of positions that are written while it is held, in (0, 1).
        overshoot: let a step that crosses t_on go beyond alpha_on, as released.
        t_end: the time at which the grid ends.
    """
    return ReMDM(Loop(eta, t_on, t_off, alpha_on, overshoot), t_end)


def forward_backward(t_end: float = 1e-5) -> ReMDM:
    """Mask in each step as many tokens as a forward step would, and step back further."""
    return ReMDM(ForwardBackward(), t_end)


register("remdm-cap", remdm_cap)
register("remdm-rescale", remdm_rescale)
register("remdm-conf", remdm_conf)
register("remdm-loop", remdm_loop)
register("forward-backward", forward_backward)

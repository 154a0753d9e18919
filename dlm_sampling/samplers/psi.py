"""Mix the reverse step with fresh noise on the final prediction: Psi-samplers.

    q(x_s | x_t) = kappa q(x_s | x_t, p) + (1 - kappa) sum_x0 q(x0 | x_t, p) q_s(x_s | x0)
    masks:  q(token | m) = [kappa (alpha_s - alpha_t) / (1 - alpha_t) + (1 - kappa) alpha_s] p0,
            q(m | token) = (1 - kappa) (1 - alpha_s)

kappa = 1 is the ancestral step, kappa = 0 denoises and noises again.  With kappa = 1 - sigma / (1 -
alpha_s) on masks this is ReMDM with the remasking rate sigma.  Deschenaux, Gulcehre and Sahoo 2026,
"The Diffusion Duality, Chapter II", arXiv:2602.21185; modes as released (s-sahoo/duo).

Marginals are those of the process only with the exact posterior of whole sequences; with
predictions per position a constant kappa < 1 keeps a bias however many steps there are, 1 - kappa =
O(1 / steps) does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from dlm_sampling.errors import check_fields
from dlm_sampling.processes.psi import psi_law
from dlm_sampling.samplers.parts.checks import NoiseRemoval, check_t_end, unit_interval
from dlm_sampling.samplers.parts.grid_move import Interval, MaskMove
from dlm_sampling.samplers.parts.remasking import sigma_max
from dlm_sampling.samplers.parts.revising_grid import RevisingGrid
from dlm_sampling.samplers.registry import register
from dlm_sampling.schedules import LOG_LINEAR, Schedule
from dlm_sampling.types import Clock, Process


@runtime_checkable
class Kappa(Protocol):
    """Compute kappa, the share of the reverse step."""

    def __call__(self, progress: Tensor, alpha_t: Tensor, alpha_s: Tensor) -> Tensor:
        """Return kappa in [0, 1]; all float64 of one shape, progress the share of steps."""
        ...


def _of_sigma(sigma: Tensor, alpha_s: Tensor) -> Tensor:
    """Return clip(1 - sigma / (1 - alpha_s), 0, 1); 1 at alpha_s = 1, where both parts agree."""
    kappa = (1.0 - sigma / (1.0 - alpha_s)).clamp(0.0, 1.0)
    return kappa.where(alpha_s < 1.0, 1.0)


@dataclass(frozen=True)
class Constant:
    """Keep kappa = eta: 1 is the released "pure-posterior", 0 "pure-pc", else "constant-eta"."""

    eta: float = 1.0

    def __post_init__(self) -> None:
        check_fields(self)
        unit_interval("eta", self.eta, "1 is ancestral sampling; the released values are near 1")

    def __call__(self, progress: Tensor, alpha_t: Tensor, alpha_s: Tensor) -> Tensor:
        """Return the same everywhere."""
        return torch.full_like(alpha_t, self.eta)


@dataclass(frozen=True)
class ConstantSigma:
    """Keep sigma = eta, the released "constant-remdm-eta", for a phase at one noise level."""

    eta: float = 0.01

    def __post_init__(self) -> None:
        check_fields(self)
        unit_interval("eta", self.eta, "the released value is 0.01")

    def __call__(self, progress: Tensor, alpha_t: Tensor, alpha_s: Tensor) -> Tensor:
        """Return 1 - eta / (1 - alpha_s), at least 0."""
        return _of_sigma(torch.full_like(alpha_t, self.eta), alpha_s)


@dataclass(frozen=True)
class MaxCapped:
    """Cap sigma = min(eta, sigma_max), sigma_max = min(1, (1 - alpha_s) / alpha_t)."""

    eta: float = 0.01

    def __post_init__(self) -> None:
        check_fields(self)
        unit_interval("eta", self.eta, "the released value is 0.01")

    def __call__(self, progress: Tensor, alpha_t: Tensor, alpha_s: Tensor) -> Tensor:
        """Return the remasking rate of ReMDM's cap."""
        return _of_sigma(sigma_max(alpha_t, alpha_s).clamp(max=self.eta), alpha_s)


@dataclass(frozen=True)
class MaxRescale:
    """Scale sigma = eta sigma_max.

    Fields:
        eta: share of the largest rate.
        released: sigma = eta min(eta, sigma_max), the released code, where eta counts twice.
    """

    eta: float = 0.05
    released: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        unit_interval("eta", self.eta, "the released value is 0.05")

    def __call__(self, progress: Tensor, alpha_t: Tensor, alpha_s: Tensor) -> Tensor:
        """Return the remasking rate of ReMDM's rescaling."""
        largest = self.eta if self.released else 1.0
        return _of_sigma(self.eta * sigma_max(alpha_t, alpha_s).clamp(max=largest), alpha_s)


@dataclass(frozen=True)
class Phases:
    """Apply one rule in the first steps, one in the middle, one in the rest.

    The released code also forces kappa to 1 in the last step of every phase whose rule reads the
    schedule; here no step is special.

    Fields:
        high: rule at high noise.
        middle: rule in between.
        low: rule at low noise.
        high_fraction: share of the steps in the first phase.
        middle_fraction: share of the steps in the middle.
    """

    high: Kappa = Constant()
    middle: Kappa = Constant(0.98)
    low: Kappa = Constant()
    high_fraction: float = 0.2
    middle_fraction: float = 0.6

    def __post_init__(self) -> None:
        check_fields(self)
        _check_fractions(self.high_fraction, self.middle_fraction)

    def __call__(self, progress: Tensor, alpha_t: Tensor, alpha_s: Tensor) -> Tensor:
        """Return the rule of the phase."""
        first, second = self.high_fraction, self.high_fraction + self.middle_fraction
        high, middle, low = (
            rule(progress, alpha_t, alpha_s) for rule in (self.high, self.middle, self.low)
        )
        return torch.where(progress < first, high, torch.where(progress < second, middle, low))


def _check_fractions(high: float, middle: float) -> None:
    unit_interval("high_fraction", high, "the released value is 0.2, or 0.45 with a hold")
    unit_interval("middle_fraction", middle, "the released value is 0.6, or 0.5 with a hold")
    if high + middle > 1.0 + 1e-9:
        raise ValueError(
            f"high_fraction={high} and middle_fraction={middle}: their sum must be at most 1; "
            "try 0.2 and 0.6."
        )


@dataclass(frozen=True)
class Hold:
    """Hold the level alpha in the middle of the steps; before and after it time falls.

    Fields:
        alpha: level of the middle phase, in (0, 1).
        high_fraction: share of the steps that reach it.
        middle_fraction: share of the steps that stay.
    """

    alpha: float = 0.9
    high_fraction: float = 0.45
    middle_fraction: float = 0.5

    def __post_init__(self) -> None:
        check_fields(self)
        if not 0.0 < self.alpha < 1.0:
            raise ValueError(f"alpha={self.alpha}: must be in (0, 1); the released value is 0.9.")
        _check_fractions(self.high_fraction, self.middle_fraction)

    def time(self, progress: Tensor, schedule: Schedule, t_end: float) -> Tensor:
        """Return the time after a share `progress` in [0, 1] of the steps, like progress."""
        level = schedule.time_of(torch.full_like(progress, self.alpha))
        left = 1.0 - self.high_fraction - self.middle_fraction
        falling = (progress / max(self.high_fraction, 1e-12)).clamp(max=1.0)
        ending = ((progress - 1.0 + left) / max(left, 1e-12)).clamp(0.0, 1.0)
        return 1.0 - (1.0 - level) * falling - (level - t_end) * ending


@dataclass(frozen=True)
class Psi(RevisingGrid):
    """Take the reverse step with probability kappa, else denoise fully and noise to time s.

    Fields:
        schedule: see `RevisingGrid`.
        noise_removal: see `RevisingGrid`, at t_end; the released greedy mode takes the argmax of
            the raw network, which does not see the token itself.
        kappa: Constant, ConstantSigma, MaxCapped, MaxRescale, or Phases of them.
        t_end: the time at which the grid ends.
        hold: Hold keeps the noise level for a while; None is an even grid.

    NFE: steps + 1; on masks the number of steps that reveal something.
    """

    schedule: Schedule = LOG_LINEAR
    noise_removal: NoiseRemoval = "sample"
    kappa: Kappa = MaxCapped()
    t_end: float = 1e-5
    hold: Hold | None = None

    paper = "Deschenaux et al. 2026, arXiv:2602.21185"
    nfe = "steps + 1; on masks the steps that reveal something"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_t_end(self.t_end)
        if self.hold is None:
            return
        object.__setattr__(self, "clock_use", "fixed")  # the clock must pass the level held
        held = float(self.schedule.time_of(torch.tensor(self.hold.alpha, dtype=torch.float64)))
        if self.t_end > held:
            raise ValueError(
                f"t_end={self.t_end}: must be at most {held:.4g}, the time of the level that is "
                "held; try 1e-5."
            )

    @property
    def revises(self) -> bool:
        """Return True: written tokens may change again."""
        return True

    def schedule_length(self, steps: int) -> int:
        """Return the grid's steps and the noise removal."""
        return steps + 1

    def last(self, clock: Clock) -> Tensor:
        """Return the step after the grid."""
        return clock.step >= clock.steps

    def interval(self, clock: Clock) -> Interval:
        """Return the step that each row takes."""
        now, later = (
            ((clock.step + k).double() / clock.steps.double()).clamp(max=1.0) for k in (0, 1)
        )
        t, s = (clock.at(self.time(share), self.t_end) for share in (now, later))
        return Interval(t, s, now)

    def time(self, progress: Tensor) -> Tensor:
        """Return the time after a share `progress` of the steps."""
        if self.hold is not None:
            return self.hold.time(progress, self.schedule, self.t_end)
        return 1.0 - (1.0 - self.t_end) * progress

    def levels(self, interval: Interval) -> tuple[Tensor, Tensor, Tensor]:
        """Return alpha_t, alpha_s and kappa."""
        alpha_t, alpha_s = self.schedule.alpha(interval.t), self.schedule.alpha(interval.s)
        return alpha_t, alpha_s, self.kappa(interval.progress, alpha_t, alpha_s)

    def mask_move(self, interval: Interval) -> MaskMove:
        """Return the two probabilities of the module docstring."""
        alpha_t, alpha_s, kappa = self.levels(interval)
        reverse = (alpha_s - alpha_t) / (1.0 - alpha_t)
        return MaskMove(kappa * reverse + (1.0 - kappa) * alpha_s, (1.0 - kappa) * (1.0 - alpha_s))

    def next_law(self, process: Process, values: Tensor, x: Tensor, interval: Interval) -> Tensor:
        """Return the law of x_s given x_t, [..., V]: `psi.psi_law`."""
        alpha_t, alpha_s, kappa = self.levels(interval)
        return psi_law(process, values, x, alpha_t, alpha_s, kappa)


def psi_constant(
    eta: float = 0.98,
    high_fraction: float = 0.2,
    middle_fraction: float = 0.6,
    t_end: float = 1e-5,
    noise_removal: NoiseRemoval = "sample",
) -> Psi:
    """Run a Psi-sampler with a constant kappa in the middle and ancestral steps around it.

    Args:
        eta: kappa in the middle, the share of the reverse step, in [0, 1].
        high_fraction: share of the steps before the middle.
        middle_fraction: share of the steps in the middle.
        t_end: the time at which the grid ends.
        noise_removal: the rule of the last step, a "sample" of the posterior or its "argmax".
    """
    phases = Phases(Constant(), Constant(eta), Constant(), high_fraction, middle_fraction)
    return Psi(noise_removal=noise_removal, kappa=phases, t_end=t_end)


def psi_cap(eta: float = 0.01, t_end: float = 1e-5, noise_removal: NoiseRemoval = "sample") -> Psi:
    """Run a Psi-sampler with ReMDM's capped rate, under any noise.

    Args:
        eta: largest rate, in [0, 1].
        t_end: the time at which the grid ends.
        noise_removal: the rule of the last step, a "sample" of the posterior or its "argmax".
    """
    return Psi(noise_removal=noise_removal, kappa=MaxCapped(eta), t_end=t_end)


def psi_rescale(
    eta: float = 0.05,
    released: bool = False,
    t_end: float = 1e-5,
    noise_removal: NoiseRemoval = "sample",
) -> Psi:
    """Run a Psi-sampler with ReMDM's rescaled rate, under any noise.

    Args:
        eta: share of the largest rate, in [0, 1].
        released: sigma = eta min(eta, sigma_max), the released code, where eta counts twice.
        t_end: the time at which the grid ends.
        noise_removal: the rule of the last step, a "sample" of the posterior or its "argmax".
    """
    return Psi(noise_removal=noise_removal, kappa=MaxRescale(eta, released), t_end=t_end)


def psi_loop(
    eta: float = 0.01,
    alpha: float = 0.9,
    high_fraction: float = 0.45,
    middle_fraction: float = 0.5,
    t_end: float = 1e-5,
    noise_removal: NoiseRemoval = "sample",
) -> Psi:
    """Run a Psi-sampler that holds a noise level, refines there, then finishes.

    Args:
        eta: sigma while the level is held.
        alpha: the level, in (0, 1).
        high_fraction: share of the steps that reach it.
        middle_fraction: share of the steps that stay.
        t_end: the time at which the grid ends.
        noise_removal: the rule of the last step, a "sample" of the posterior or its "argmax".
    """
    phases = Phases(Constant(), ConstantSigma(eta), Constant(), high_fraction, middle_fraction)
    hold = Hold(alpha, high_fraction, middle_fraction)
    return Psi(noise_removal=noise_removal, kappa=phases, t_end=t_end, hold=hold)


register("psi", Psi)
register("psi-constant", psi_constant)
register("psi-cap", psi_cap)
register("psi-rescale", psi_rescale)
register("psi-loop", psi_loop)

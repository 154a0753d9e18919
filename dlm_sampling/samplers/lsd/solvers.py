"""Run solvers with learned coefficients and times: learned sampler distillation (LSD).

    euler              q(v | u) = phi_k h R_t(u, v);   masks: min{1, phi_k h c_t} p0(v)
    tau-leaping        as tau-leaping with the rates phi_k R_t
    tweedie            as Tweedie with the ratios phi_k s(v), v != u;  masks: phi_k times the chance
    theta-trapezoidal  both stages of interval k with phi_k times the rates

With phi = 1 and equal steps each is its solver, number for number; phi = 0 stays.  What is noise at
the end of the grid is written by the solver's noise removal.  Under apply="log_score" the ratios
are s^phi.  `dlm-sampling learn` finds the numbers.  "Learnable Sampler Distillation for Discrete
Diffusion Models", arXiv:2509.19962.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from dlm_sampling.errors import unknown_choice
from dlm_sampling.processes.coefficients import Apply
from dlm_sampling.processes.tables import off_diagonal, per_position
from dlm_sampling.processes.tweedie import tweedie_absorbing
from dlm_sampling.samplers.euler import Euler
from dlm_sampling.samplers.lsd.learned_steps import NOT_LEARNED, LearnedSteps
from dlm_sampling.samplers.parts.checks import NoiseRemoval
from dlm_sampling.samplers.parts.grid import GridSampler
from dlm_sampling.samplers.parts.two_stage import StageInterval
from dlm_sampling.samplers.registry import register
from dlm_sampling.samplers.tau_leaping import Events, TauLeaping
from dlm_sampling.samplers.theta_trapezoidal import ThetaTrapezoidal
from dlm_sampling.samplers.tweedie import Tweedie
from dlm_sampling.schedules import Schedule, reverse_rate
from dlm_sampling.types import Canvas, NoiseKind, Process

BaseName = Literal["euler", "tweedie", "tau-leaping", "theta-trapezoidal"]
_PAPER = "Fu et al. 2025, arXiv:2509.19962"


@dataclass(frozen=True)
class LearnedGrid(GridSampler):
    """Serve as the base of learned solvers with one forward pass per step."""

    learned: LearnedSteps = NOT_LEARNED

    passes: ClassVar[int] = 1
    """Forward passes per interval of the grid."""
    linear: ClassVar[bool] = True
    """Whether the chance of leaving is the intensity itself, rather than 1 - exp(-intensity)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "clock_use", "fixed")  # its times are learnt
        # The instance runs on the noise that its numbers were learnt for.
        object.__setattr__(self, "runs_on", self.learned.restricted(type(self).runs_on))

    @property
    def own_steps(self) -> int | None:
        """Return the steps that the coefficients were learnt for."""
        return self.learned.intervals

    def schedule_length(self, steps: int) -> int:
        """Return the steps and the noise removal; ValueError for other steps than its own."""
        self.learned.check(steps, self.own_steps)
        return super().schedule_length(steps)

    def time_at(self, k: Tensor, number: Tensor) -> Tensor:
        """Return the time of grid point k, learned or equally spaced, float64 like k."""
        return self.learned.time_at(k, number, self.t_end)

    def by_tables(self, canvas: Canvas) -> bool:
        """Return True also on masks if a mask's reveal probability depends on its prediction."""
        return super().by_tables(canvas) or (
            self.learned.apply == "log_score" and not self.learned.neutral
        )

    def phi(self, t: Tensor) -> Tensor:
        """Return the coefficient of the step that begins at t, float64 like t."""
        return self.learned.at(t, self.t_end)

    def rates(self, process: Process, values: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Return the reverse rates under the coefficients, [..., V]; arguments as in `next_law`."""
        rates = super().rates(process, values, x, t)
        alpha = self.schedule.alpha(t)
        return self.learned.rates(process, rates, values, x, alpha, self.phi(t))

    def intensity(
        self, process: Process, values: Tensor, x: Tensor, t: Tensor, s: Tensor
    ) -> Tensor:
        """Return the quantity that phi multiplies, [..., V]: expected events h R_t(x, v)."""
        return per_position(t - s, x, values) * off_diagonal(
            super().rates(process, values, x, t), x
        )

    def expected(self, process: Process, values: Tensor, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """Return the quantity that adds up over a finer grid, [..., V].

        These are exit probabilities for linear solvers, expected event counts otherwise.
        """
        if self.linear:
            return off_diagonal(self.next_law(process, values, x, t, s), x)
        return self.intensity(process, values, x, t, s)


@dataclass(frozen=True)
class LearnedEuler(LearnedGrid, Euler):
    """Take Euler steps with learned coefficients and times.

    Fields:
        schedule, noise_removal: see `Euler`.
        t_end: see `Euler`; it counts without a learned grid only.
        learned: the learned coefficients and times.

    NFE: number of steps that reveal something, at most min(steps + 1, tokens); with
        apply="log_score" steps + 1.
    """

    schedule: Schedule = Euler.schedule
    t_end: float = Euler.t_end
    noise_removal: NoiseRemoval = Euler.noise_removal

    paper = _PAPER

    def reveal_prob(self, t: Tensor, s: Tensor) -> Tensor:
        """Return min{1, phi (t - s) c_t}, float64 like t."""
        return (self.phi(t) * ((t - s) * reverse_rate(self.schedule, t))).clamp(max=1.0)


@dataclass(frozen=True)
class LearnedTauLeaping(LearnedGrid, TauLeaping):
    """Take tau-leaping steps with learned coefficients and times.

    Fields:
        schedule, noise_removal, events: see `TauLeaping`.
        t_end: see `TauLeaping`; it counts without a learned grid only.
        learned: the learned coefficients and times.

    NFE: number of steps that reveal something, at most min(steps + 1, tokens); with
        apply="log_score" steps + 1.
    """

    schedule: Schedule = TauLeaping.schedule
    t_end: float = TauLeaping.t_end
    noise_removal: NoiseRemoval = TauLeaping.noise_removal
    events: Events = TauLeaping.events

    linear = False
    paper = _PAPER

    def reveal_prob(self, t: Tensor, s: Tensor) -> Tensor:
        """Return `event_prob` of phi (t - s) c_t, float64 like t."""
        return self.event_prob(self.phi(t) * ((t - s) * reverse_rate(self.schedule, t)))


@dataclass(frozen=True)
class LearnedTweedie(LearnedGrid, Tweedie):
    """Take Tweedie steps with learned coefficients and times.

    Fields:
        schedule, noise_removal: see `Tweedie`.
        t_end: see `Tweedie`; it counts without a learned grid only.
        learned: the learned coefficients and times.

    NFE: number of steps that reveal something, at most min(steps + 1, tokens); with
        apply="log_score" steps + 1.
    """

    schedule: Schedule = Tweedie.schedule
    t_end: float = Tweedie.t_end
    noise_removal: NoiseRemoval = Tweedie.noise_removal

    paper = _PAPER

    def reveal_prob(self, t: Tensor, s: Tensor) -> Tensor:
        """Return min{1, phi (alpha_s - alpha_t) / (1 - alpha_t)}, float64 like t."""
        return (self.phi(t) * Tweedie.reveal_prob(self, t, s)).clamp(max=1.0)

    def next_law(self, process: Process, values: Tensor, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """Return the law of x_s given x_t from ratios under the coefficients, [..., V]."""
        alpha_t, alpha_s = self.levels(t, s)
        mask = process.mask_token_id
        score = process.convert(values, x, alpha_t, process.rates_read, "log_score")
        score = self.learned.ratios(score, x, self.phi(t))
        if mask is None:
            return Tweedie.next_law(self, process, score, x, t, s)
        return tweedie_absorbing(score, x, alpha_t, alpha_s, mask)

    def intensity(
        self, process: Process, values: Tensor, x: Tensor, t: Tensor, s: Tensor
    ) -> Tensor:
        """Return the quantity that phi multiplies, [..., V]: the law of each other token."""
        return off_diagonal(self.next_law(process, values, x, t, s), x)


@dataclass(frozen=True)
class LearnedTrapezoidal(ThetaTrapezoidal):
    """Take theta-trapezoidal steps with a learned coefficient and time per interval.

    Fields:
        theta, schedule, noise_removal, clock: see `ThetaTrapezoidal`.
        t_end: see `ThetaTrapezoidal`; it counts without a learned grid only.
        learned: the learned coefficients and times; apply="rate".

    NFE: at most 2 per interval, and the noise removal; `steps` is twice the intervals.
    """

    learned: LearnedSteps = NOT_LEARNED

    passes: ClassVar[int] = 2
    linear: ClassVar[bool] = False
    paper = _PAPER

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "clock_use", "fixed")  # its times are learnt
        object.__setattr__(self, "runs_on", self.learned.restricted(type(self).runs_on))
        if self.learned.apply != "rate":
            raise ValueError(
                f"apply={self.learned.apply!r}: theta-trapezoidal mixes rates; must be 'rate'."
            )

    @property
    def own_steps(self) -> int | None:
        """Return the forward passes that the coefficients were learnt for."""
        return None if self.learned.intervals is None else 2 * self.learned.intervals

    def schedule_length(self, steps: int) -> int:
        """Return two steps per interval and the noise removal; ValueError for other steps."""
        self.learned.check(steps, self.own_steps)
        return super().schedule_length(steps)

    def time_at(self, k: Tensor, number: Tensor) -> Tensor:
        """Return the time of grid point k, learned or equally spaced, float64 like k."""
        return self.learned.time_at(k, number, self.t_end)

    def interval(self, t: Tensor, s: Tensor) -> StageInterval:
        """Return the interval on masks, with the coefficient as a factor of its length."""
        return self.scaled_by_phi(super().interval(t, s))

    def interval_of_noise(self, t: Tensor, s: Tensor) -> StageInterval:
        """Return the interval without a mask, with the coefficient as a factor of its length."""
        return self.scaled_by_phi(super().interval_of_noise(t, s))

    def scaled_by_phi(self, interval: StageInterval) -> StageInterval:
        """Multiply the window by phi: both stages leap over a length times a rate."""
        phi = self.learned.at(interval.t, self.t_end)
        return interval._replace(window=interval.window * phi)

    def intensity(
        self, process: Process, values: Tensor, x: Tensor, t: Tensor, s: Tensor
    ) -> Tensor:
        """Return the quantity that phi multiplies, [..., V]: expected events in the interval."""
        if process.mask_token_id is None:
            window = super().interval_of_noise(t, s).window
            rates = self.clock_rates(process, values, x, t)
            return per_position(window, x, rates) * off_diagonal(rates, x)
        plain, alpha = super().interval(t, s), self.schedule.alpha(t)
        return process.rates(values, x, alpha, plain.window * plain.rate_t * (1.0 - alpha))

    def expected(self, process: Process, values: Tensor, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """Return the quantity that adds up over a finer grid, [..., V]: expected events."""
        return self.intensity(process, values, x, t, s)


Learned = LearnedGrid | LearnedTrapezoidal
LEARNED: Mapping[BaseName, type[Learned]] = {
    "euler": LearnedEuler,
    "tweedie": LearnedTweedie,
    "tau-leaping": LearnedTauLeaping,
    "theta-trapezoidal": LearnedTrapezoidal,
}
"""The learned form of each solver, by the solver's public name."""


def lsd(
    base: BaseName = "euler",
    phi: Sequence[float] | None = None,
    t_grid: Sequence[float] | None = None,
    apply: Apply = "rate",
    process: NoiseKind | None = None,
) -> Learned:
    """Take the steps of a solver with learned coefficients (LSD), and at learned times (LSD+).

    Args:
        base: the solver, with its defaults.
        phi: one coefficient >= 0 per interval of the grid; None is 1 everywhere, the solver itself.
        t_grid: times of the grid's points, one more than intervals; None for equal steps.
        apply: "rate", or the released code's "log_score"; see `LearnedSteps`.
        process: the noise that the numbers were learnt for, or None for any.
    """
    if base not in tuple(LEARNED):
        raise unknown_choice("base", base, tuple(LEARNED))
    learned = LearnedSteps(phi, t_grid, apply, process)
    return LEARNED[base](learned=learned)


register("lsd", lsd)

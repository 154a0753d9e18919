"""Weigh particles: what a step adds to the log-weight of each, and what the end adds.

A target gives log G_k after step k, from the canvas before the step, the step itself, and a memory
that follows its particle.  The product of all G and of the last factor is the density of the target
with respect to the law of the sampler, up to a constant.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.engine.request import Request
from dlm_sampling.errors import check_fields
from dlm_sampling.guidance.base import one_per_row
from dlm_sampling.prediction.lazy import LazyPrediction
from dlm_sampling.samplers.parts.grid import GridSampler
from dlm_sampling.samplers.parts.revising_grid import RevisingGrid
from dlm_sampling.samplers.predictor_corrector import PredictorCorrector
from dlm_sampling.types import RandomSource, Sampler, Step

Reward = Callable[[Tensor], Tensor]
"""Takes finished rows, int64 [n, L], and returns their rewards, [n]."""

FIRST_SUB = 8  # sub-draws of a step from here on are those of the target


class Weighing(NamedTuple):
    """Hold what a target reads after a step of A particles.

    before, after: int64 [A, L], the canvases.  unknown: bool [A, L], unknown positions before the
    step.  written: bool [A, L], positions that the step wrote.  step: what the sampler returned.
    prediction: of the model at `before`.  own: that of the run's own pass, without guidance,
    temperature and filters.  retake: returns the log-probability of the step's draws under a
    prediction, float64 [A]; None on masks.
    """

    before: Tensor
    after: Tensor
    unknown: Tensor
    written: Tensor
    step: Step
    prediction: LazyPrediction
    own: LazyPrediction
    rng: RandomSource
    retake: Callable[[LazyPrediction], Tensor] | None = None


class Target(Protocol):
    """Define a target of particles."""

    @property
    def looks_ahead(self) -> bool:
        """Return whether `weigh` reads predictions outside of the current block."""
        ...

    def check(self, denoiser: Denoiser, request: Request) -> None:
        """Check that it can weigh the steps of a run.

        Raises:
            ValueError: it cannot.
        """
        ...

    def begin(self, rows: int, device: torch.device) -> Tensor:
        """Return the memory of fresh particles, float64 [rows, m]."""
        ...

    def weigh(self, step: Weighing, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Return log G of the step, float64 [A], and the memory after it, float64 [A, m]."""
        ...

    def end(self, tokens: Tensor, memory: Tensor) -> Tensor:
        """Return the log of the last factor, float64 [A], of finished rows int64 [A, L]."""
        ...


Potential = Literal["difference", "max", "add", "reward"]


class Past(NamedTuple):
    """Name the columns of the memory of `RewardTarget`."""

    last: Tensor  # estimate before the latest step
    best: Tensor  # largest estimate
    total: Tensor  # sum of all estimates
    spent: Tensor  # sum of log G


@dataclass(frozen=True)
class RewardTarget:
    """Steer towards p(x) exp(scale r(x)) / Z: Feynman-Kac steering.

        r_k = log mean_j exp r(x0_j),  x0_j drawn at all unknown positions from the model's laws
        log G_k = scale (r_k - r_{k-1}), scale max_{j <= k} r_j, scale sum_{j <= k} r_j, scale r_k
        last factor  exp(scale r(x)) / prod_k G_k

    for "difference", "max", "add" and "reward".  The last factor makes the target of all four the
    same; they differ in when particles die.  r_k is of the canvas before step k, from the pass of
    that step, so that it costs no pass (a row that needed none in a step has one for it).  With
    several blocks it reads the laws of those to come, so that no cache fits and causal blocks do
    not.

    Singhal et al. 2025, "A General Framework for Inference-time Scaling and Steering of Diffusion
    Models", arXiv:2501.06848.  Unlike the released class, weights are carried where nothing is
    resampled, and never leave log space.

    Fields:
        reward: takes finished rows int64 [n, L] and returns [n], finite.
        scale: of the reward; 0 is the model's own law.
        potential: the rule by which estimates become weights; see above.
        draws: rows drawn for an estimate.
    """

    reward: Reward
    scale: float = 1.0
    potential: Potential = "difference"
    draws: int = 4

    def __post_init__(self) -> None:
        check_fields(self)
        if not math.isfinite(self.scale):
            raise ValueError(f"scale={self.scale}: must be finite; 0 is the model's own law.")
        if self.draws < 1:
            raise ValueError(f"draws={self.draws}: must be at least 1; the paper has 4.")

    @property
    def looks_ahead(self) -> bool:
        """Return True: whole rows are drawn."""
        return True

    def check(self, denoiser: Denoiser, request: Request) -> None:
        """Accept every run: its own law is the one that is tilted."""

    def begin(self, rows: int, device: torch.device) -> Tensor:
        """Return the memory of fresh particles."""
        memory = torch.zeros(rows, len(Past._fields), dtype=torch.float64, device=device)
        memory[:, 0] = math.nan  # no estimate yet
        memory[:, 1] = -math.inf
        return memory

    def weigh(self, step: Weighing, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Return log G of the step, and the memory after it."""
        past, estimate = Past(*memory.unbind(1)), self.estimate(step)
        last = torch.where(past.last.isnan(), 0.0, past.last)
        best, total = torch.maximum(past.best, estimate), past.total + estimate
        values = {"difference": estimate - last, "max": best, "add": total, "reward": estimate}
        log_g = self.scale * values[self.potential]
        return log_g, torch.stack(Past(estimate, best, total, past.spent + log_g), 1)

    def estimate(self, step: Weighing) -> Tensor:
        """Return r_k, float64 [A]."""
        found: list[Tensor] = []
        for j in range(self.draws):
            drawn = step.prediction.draw(
                step.unknown, step.rng, sub=FIRST_SUB + j, aside=True
            ).token
            guess = torch.where(step.unknown, drawn, step.before)
            found.append(self.value_of(guess))
        return torch.stack(found).logsumexp(0) - math.log(self.draws)

    def value_of(self, rows: Tensor) -> Tensor:
        """Return the rewards of rows, float64 [n].

        Raises:
            ValueError: one is not finite: what later steps take back of an estimate must cancel.
        """
        found = one_per_row("reward", self.reward(rows), len(rows))
        if bool((found == -math.inf).any()):
            raise ValueError(
                "reward returned -inf: steering reads estimates of rewards, which must be finite; "
                "return a penalty such as -5, or use TwistedTarget for what is impossible."
            )
        return found

    def end(self, tokens: Tensor, memory: Tensor) -> Tensor:
        """Return scale r(x) less what was spent."""
        return self.scale * self.value_of(tokens) - Past(*memory.unbind(1)).spent


@dataclass(frozen=True)
class TiltedTarget:
    """Correct a sampler that draws from laws without their normaliser: Feynman-Kac correctors.

        log G_k = sum over the positions i that step k wrote of  log sum_v exp l_i(v)

    where the denoiser's output l_i(v) is the log of an unnormalised law, as that of
    `products.ProductDenoiser`:  prod_j p_j(v)^b_j.  Then the particles' law is that of the product
    of the models, where each step writes one position from exact conditionals: classifier-free
    guidance made exact, p^b, p1^b1 p2^b2.  Steps of several positions target the product of
    positions that each model makes of the step.  Temperature and filters of the law are part of the
    proposal and are corrected, but a token that they ban is never seen.

    Skreta et al. 2025, "Feynman-Kac Correctors in Diffusion", arXiv:2503.02819; here in steps.
    """

    @property
    def looks_ahead(self) -> bool:
        """Return False: it reads what was written."""
        return False

    def check(self, denoiser: Denoiser, request: Request) -> None:
        """Refuse samplers whose steps are more than the draws of what they write."""
        check_weighable("TiltedTarget", denoiser, request.sampler)
        check_drawn("TiltedTarget", denoiser, request)

    def begin(self, rows: int, device: torch.device) -> Tensor:
        """Return no memory."""
        return torch.zeros(rows, 0, dtype=torch.float64, device=device)

    def weigh(self, step: Weighing, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log-normalisers of the written positions, and what the token law changed."""
        if step.step.draw is None:
            raise ValueError(
                "target: the sampler's steps say nothing of their draws (`Step.draw`); use one "
                "that writes by drawing, such as llada-random."
            )
        check_none_filled("TiltedTarget", step)
        weight = step.step.draw.log_normalizer.double()
        if not step.prediction.law.plain or step.prediction.law.temperature != 1.0:
            plain = step.prediction.log_prob_of(step.after, step.written).double()
            weight = weight + plain - step.step.logprob.double()
        return weight.where(step.written, 0.0).sum(1), memory

    def end(self, tokens: Tensor, memory: Tensor) -> Tensor:
        """Return 0."""
        return torch.zeros(len(tokens), dtype=torch.float64, device=tokens.device)


def check_weighable(name: str, denoiser: Denoiser, sampler: Sampler[Any]) -> None:
    """Check that the density of a step is that of the tokens it writes.

    Raises:
        ValueError: the noise is no masks, or the choice of positions reads what was drawn, or
            written tokens change, or a step has several passes.
    """
    fits = sampler.exact and not sampler.revises and sampler.passes_per_step == 1
    if denoiser.mask_token_id is None or not fits:
        raise ValueError(
            f"{name}: a step must be the tokens that it writes on masks, and that of "
            f"{type(sampler).__name__} on {denoiser.process.name} noise is more: use masks and a "
            "sampler that writes positions chosen without the draws, in one pass, and keeps them, "
            "such as llada-random."
        )


def check_drawn(name: str, denoiser: Denoiser, request: Request) -> None:
    """Check that every token of a run is drawn from a law, and that nothing else is chosen by it.

    Raises:
        ValueError: tokens are argmaxes, or a guidance compares candidates or changes which masks
            are written.
    """
    sampler, guide = request.sampler, request.guidance
    law = sampler.law if request.law is None else request.law
    if law.temperature == 0.0:
        raise ValueError(
            f"{name}: at temperature 0 a token is the argmax, which has no law to be weighed by; "
            "set a temperature above 0."
        )
    solver = isinstance(sampler, GridSampler | RevisingGrid | PredictorCorrector)
    if solver and sampler.noise_removal == "argmax":
        raise ValueError(
            f"{name}: the last step of {type(sampler).__name__} takes the argmax, which has no law "
            'to be weighed by; use noise_removal="sample".'
        )
    masked = denoiser.mask_token_id is not None
    if guide is not None and (guide.chooses or (guide.moves_rates and masked)):
        raise ValueError(
            f"{name}: {type(guide).__name__} chooses among candidates or masks by their values, "
            "which is not weighed; use a guidance of laws, on masks with rate_preserving=True."
        )


def check_none_filled(name: str, step: Weighing) -> None:
    """Check that a step drew all that was written with it.

    Raises:
        ValueError: the schedule ended before all was written, and the rest became the argmax.
    """
    if bool((step.written & step.step.unknown).any()):
        raise ValueError(
            f"{name}: the steps ended with positions unknown, which became the argmax; take more "
            "steps."
        )

"""Worlds so small that the law of a whole chain is a vector: one token, two tokens, three masks.

    uniform   q_t(y | x0) = alpha 1[y = x0] + (1 - alpha) / S,  alpha = e^-t,  t from 12 to 0
    masks     alpha = 1 - (1 - 1e-3) t,  t from 1 to 1e-3; then the rest is drawn at once

Predictions come from enumerating x0, so every error that a world shows is the solver's own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from dlm_sampling.processes import Absorbing, Uniform, conversions
from dlm_sampling.schedules import (
    LOG_LINEAR,
    Exponential,
    hazard,
    masking_rate,
    reverse_rate,
    time_after_hazard,
)
from dlm_sampling.testing import EnumerableDenoiser, all_states, final_draw
from dlm_sampling.types import PredictionKind

SYMBOLS, HORIZON, MASKS_END = 15, 12.0, 1e-3


def dirichlet(concentration: float, seed: int) -> Tensor:
    """A law of one token from Dir(concentration) over 15 symbols, [15]."""
    draws = np.random.default_rng(seed).gamma(concentration, size=SYMBOLS)
    return torch.from_numpy(draws / draws.sum())


def gaussian_logits(length: int, scale: float, seed: int) -> Tensor:
    """A joint law over three symbols with independent normal logits, [3] * length."""
    logits = scale * np.random.default_rng(seed).normal(size=3**length)
    return torch.from_numpy(logits).softmax(0).reshape((3,) * length)


@dataclass(frozen=True)
class UniformWorld:
    """Uniform noise at rate 1.

    Fields:
        joint: the data law, float64 [S] * L.
        read_as: how the right prediction of a kind is replaced to show what a wrong pairing does:
            {"leave_one_out": "posterior"} hands rules that need the first the second.
    """

    joint: Tensor
    read_as: dict[PredictionKind, PredictionKind] = field(default_factory=dict)

    schedule: ClassVar[Exponential] = Exponential(1.0)
    process: ClassVar[Uniform] = Uniform()

    @property
    def size(self) -> int:
        """Symbols per position."""
        return self.joint.shape[0]

    @cached_property
    def states(self) -> Tensor:
        """All canvases, int64 [S ** L, L]."""
        return all_states(self.joint.ndim, self.size)

    def start(self) -> Tensor:
        """Law of the first canvas: uniform."""
        return torch.full((len(self.states),), 1.0 / len(self.states), dtype=torch.float64)

    def grid(self, intervals: int) -> Tensor:
        """Times from 12 to 0 in equal steps, [intervals + 1]."""
        return HORIZON * (1.0 - torch.arange(intervals + 1, dtype=torch.float64) / intervals)

    def finish(self, law: Tensor) -> Tensor:
        """The chain ends at the data itself."""
        return law

    def alpha(self, t: Tensor) -> Tensor:
        """Probability of being clean."""
        return self.schedule.alpha(t)

    def predict(self, kind: PredictionKind, x: Tensor, t: Tensor) -> Tensor:
        """The exact prediction of one kind at canvases x, float64 [N, L, S]; ratios for scores."""
        needed: PredictionKind = "leave_one_out" if kind == "log_score" else kind
        given = self.read_as.get(needed, needed)
        values = self._clean_law(x, t, without_own=given == "leave_one_out")
        return conversions.convert_uniform(values, x, self.alpha(t), needed, kind)

    def _clean_law(self, x: Tensor, t: Tensor, *, without_own: bool) -> Tensor:
        """P(x0_i = y | x_t), or given all tokens but its own, by summing over all x0, [N, L, S]."""
        alpha = self.alpha(t)
        kernel = alpha * torch.eye(self.size, dtype=torch.float64) + (1 - alpha) / self.size
        likelihoods = [kernel[self.states[:, j]][:, x[:, j]].T for j in range(x.shape[1])]
        laws: list[Tensor] = []
        for i in range(x.shape[1]):
            weight = self.joint.flatten().expand(len(x), -1)
            for j, likelihood in enumerate(likelihoods):
                weight = weight if without_own and j == i else weight * likelihood
            chosen = torch.nn.functional.one_hot(self.states[:, i], self.size).double()
            laws.append(weight @ chosen / weight.sum(1, keepdim=True))
        return torch.stack(laws, 1)

    def rates(self, x: Tensor, t: Tensor) -> Tensor:
        """Rates of the reverse process, [N, L, S]."""
        score = self.predict("log_score", x, t)
        return self.process.reverse_rates(score, x, masking_rate(self.schedule, t))

    def window(self, t: Tensor, s: Tensor) -> Tensor:
        """Length of a step on the clock of the two-stage rules: time itself."""
        return t - s

    def later(self, t: Tensor, window: Tensor) -> Tensor:
        """The time when `window` has passed since t."""
        return t - window

    stage_rates = rates


@dataclass(frozen=True)
class MaskWorld:
    """Log-linear masking; the two-stage rules run on the hazard clock, as in the library.

    Fields:
        joint: the data law, float64 [S] * L.
    """

    joint: Tensor

    @property
    def size(self) -> int:
        """Symbols per position, the mask included (it is the last)."""
        return self.joint.shape[0] + 1

    @cached_property
    def denoiser(self) -> EnumerableDenoiser:
        """The exact posterior."""
        return EnumerableDenoiser(self.joint)

    @cached_property
    def process(self) -> Absorbing:
        """Masking."""
        return Absorbing(self.size - 1)

    @cached_property
    def states(self) -> Tensor:
        """All canvases, int64 [V ** L, L]."""
        return all_states(self.joint.ndim, self.size)

    def start(self) -> Tensor:
        """Law of the first canvas: all masks, the last state."""
        return torch.nn.functional.one_hot(
            torch.tensor(len(self.states) - 1), len(self.states)
        ).double()

    def grid(self, intervals: int) -> Tensor:
        """Times from 1 to 1e-3 in equal steps, [intervals + 1]."""
        return (
            1.0 - (1.0 - MASKS_END) * torch.arange(intervals + 1, dtype=torch.float64) / intervals
        )

    def finish(self, law: Tensor) -> Tensor:
        """Draw what is still masked from its posterior, all positions at once: [S ** L]."""
        return final_draw(law, self.denoiser.probs, length=self.joint.ndim, vocab_size=self.size)

    def alpha(self, t: Tensor) -> Tensor:
        """Probability of being clean."""
        return LOG_LINEAR.alpha(t)

    def predict(self, x: Tensor) -> Tensor:
        """The exact posterior, which is the leave-one-out law at masks, [N, L, V]."""
        return self.denoiser.probs(x)

    def rates(self, x: Tensor, t: Tensor) -> Tensor:
        """Rates of the reverse process, [N, L, V]."""
        return self.process.reverse_rates(self.predict(x), x, reverse_rate(LOG_LINEAR, t))

    def window(self, t: Tensor, s: Tensor) -> Tensor:
        """Length of a step on the clock of the two-stage rules: its hazard."""
        return hazard(LOG_LINEAR, t, s)

    def later(self, t: Tensor, window: Tensor) -> Tensor:
        """The time when the hazard `window` has passed since t."""
        return time_after_hazard(LOG_LINEAR, t, window)

    def stage_rates(self, x: Tensor, t: Tensor) -> Tensor:
        """Rates per unit of hazard: p itself at masks."""
        return self.process.reverse_rates(self.predict(x), x, torch.ones_like(t))


World = UniformWorld | MaskWorld

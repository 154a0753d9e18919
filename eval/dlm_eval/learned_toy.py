"""A law of three tokens at three places, and the exact law of a learned solver on it.

The law after M steps is a product of matrices over the 4^3 canvases, and the noise removal draws
what is still a mask, so that the distance to the data law,

    TV = 1/2 sum_x |q(x) - p(x)|,

is known without sampling, and can itself be minimised over the coefficients and times.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dlm_sampling import wrap
from dlm_sampling.denoisers import Denoiser
from dlm_sampling.samplers import Pace
from dlm_sampling.types import Canvas

SYMBOLS, LENGTH = 3, 3
MASK = SYMBOLS
GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0


class Toy:
    """A random joint law p(x) ~ exp(scale z_x), z standard normal, and its exact posterior."""

    def __init__(self, seed: int, scale: float = 1.5) -> None:
        """Of a seed."""
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(SYMBOLS**LENGTH, generator=generator, dtype=torch.float64)
        self.law = (scale * noise).softmax(0)
        self.points = _sequences(SYMBOLS)
        self.states = _sequences(SYMBOLS + 1)

    def logits(self, input_ids: Tensor) -> Tensor:
        """Logarithm of P(x0_i | the tokens of the canvas), float64 [B, L, S + 1]; -inf at the mask."""
        agree = (input_ids.unsqueeze(1) == self.points) | (input_ids == MASK).unsqueeze(1)
        weight = agree.all(-1) * self.law
        mass = weight @ F.one_hot(self.points, SYMBOLS + 1).double().flatten(1)
        mass = mass.view(*input_ids.shape, SYMBOLS + 1)
        return (mass / mass.sum(-1, keepdim=True)).log()

    @cached_property
    def denoiser(self) -> Denoiser:
        """As a model."""
        return wrap(self.logits, vocab_size=SYMBOLS + 1, mask_token_id=MASK)

    @cached_property
    def log_p0(self) -> Tensor:
        """The posterior of every canvas, [4^3, L, S + 1]."""
        return self.logits(self.states)

    def chain(self, sampler: Any, intervals: int) -> Tensor:
        """Law of the finished text of a learned solver that ends with a sample, [3^3]."""
        unknown = self.states == MASK
        whole = torch.ones_like(unknown)
        canvas = Canvas(self.states, unknown, whole, torch.zeros(len(self.states)).long(), MASK)
        law = torch.zeros(len(self.states), dtype=torch.float64)
        law[-1] = 1.0
        number = torch.tensor([[intervals]])
        for k in range(intervals):
            t, s = (sampler.time_at(torch.tensor([[i]]), number) for i in (k, k + 1))
            law = law @ _product(sampler.transition_probs(canvas, self.log_p0, t, s))
        kept = F.one_hot(self.states, SYMBOLS + 1).double()
        final = torch.where(unknown.unsqueeze(-1), self.log_p0.exp(), kept)
        return law @ _product(final[..., :SYMBOLS])

    def tv(self, sampler: Any, intervals: int) -> float:
        """Distance of that law to the data law."""
        return float((self.chain(sampler, intervals) - self.law).abs().sum() / 2)


def _sequences(symbols: int) -> Tensor:
    grid = torch.arange(symbols**LENGTH)
    return torch.stack(torch.unravel_index(grid, (symbols,) * LENGTH), dim=1)


def _product(probs: Tensor) -> Tensor:
    """Laws of sequences with independent positions, [N, L, K] -> [N, K ** L]."""
    law = probs[:, 0]
    for i in range(1, probs.shape[1]):
        law = (law.unsqueeze(2) * probs[:, i].unsqueeze(1)).flatten(1)
    return law


def lowest(function: Callable[[float], float], low: float, high: float, evaluations: int) -> float:
    """Golden-section search of a function of one number; where it was smallest."""
    a, b = low, high
    points = [b - GOLDEN * (b - a), a + GOLDEN * (b - a)]
    values = [function(x) for x in points]
    for _ in range(evaluations - 2):
        if values[0] < values[1]:
            b = points[1]
            points, values = [b - GOLDEN * (b - a), points[0]], [0.0, values[0]]
            values[0] = function(points[0])
        else:
            a = points[0]
            points, values = [points[1], a + GOLDEN * (b - a)], [values[1], 0.0]
            values[1] = function(points[1])
    return points[0] if values[0] < values[1] else points[1]


def directly(
    toy: Toy, base: Any, intervals: int, *, times: bool, sweeps: int = 8, evaluations: int = 14
) -> tuple[Pace, float]:
    """Coefficients, and times, of the smallest TV that a search along the coordinates finds.

    It begins with 1 and equal steps and only takes what is better, so that the result is never
    worse than the solver itself.
    """
    number = torch.tensor(intervals)
    grid = [float(base.time_at(torch.tensor(k), number)) for k in range(intervals + 1)]
    phi = [1.0] * intervals

    def distance() -> float:
        return toy.tv(replace(base, pace=Pace(tuple(phi), tuple(grid))), intervals)

    best = distance()
    for _ in range(sweeps):
        for values, k, low, high in _coordinates(phi, grid, times):
            old = values[k]

            def along(x: float, values: list[float] = values, k: int = k) -> float:
                values[k] = x
                return distance()

            found = lowest(along, low(), high(), evaluations)
            after = along(found)
            values[k], best = (found, after) if after < best else (old, best)
    return Pace(tuple(phi), tuple(grid)), best


Bound = Callable[[], float]


def _coordinates(
    phi: list[float], grid: list[float], times: bool
) -> Sequence[tuple[list[float], int, Bound, Bound]]:
    """What is searched along, one number after the other, each between its bounds of the moment."""
    coefficients = [
        (phi, k, lambda k=k: 0.3 * phi[k], lambda k=k: 3.0 * phi[k]) for k in range(len(phi))
    ]
    inner = [
        (grid, k, lambda k=k: grid[k + 1], lambda k=k: grid[k - 1]) for k in range(1, len(phi))
    ]
    return [*coefficients, *(inner if times else [])]

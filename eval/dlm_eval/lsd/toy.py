"""A law of three tokens at three places, and the exact law of a learned solver on it.

The law after M steps is a product of matrices over the 4^3 canvases (3^3 under uniform noise), and
the noise removal draws what is still noise, so that the distance to the data law,

    TV = 1/2 sum_x |q(x) - p(x)|,

is known without sampling, and can itself be minimised over the coefficients and times.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor

from dlm_sampling.samplers import LearnedSteps
from dlm_sampling.schedules import Schedule
from dlm_sampling.testing import (
    EnumerableDenoiser,
    NoisyEnumerableDenoiser,
    all_states,
    exact_chain_law,
    final_draw,
    product_law,
    tv,
)
from dlm_sampling.types import Canvas

SYMBOLS, LENGTH = 3, 3
MASK = SYMBOLS
GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0
FACTORS = (0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.6, 2.5, 4.0)


World = EnumerableDenoiser | NoisyEnumerableDenoiser


def toy(seed: int, scale: float = 1.5) -> EnumerableDenoiser:
    """The exact posterior of a random law p(x) ~ exp(scale z_x), z standard normal, under masks."""
    return EnumerableDenoiser(_joint(seed, scale))


def noisy_toy(seed: int, schedule: Schedule, scale: float = 1.5) -> NoisyEnumerableDenoiser:
    """The exact ratios of the same law under uniform noise at alpha(t)."""
    return NoisyEnumerableDenoiser(_joint(seed, scale), kind="log_score", schedule=schedule)


def _joint(seed: int, scale: float) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn([SYMBOLS] * LENGTH, generator=generator, dtype=torch.float64)
    return (scale * noise).flatten().softmax(0).view_as(noise)


def distance(world: World, sampler: Any, intervals: int) -> float:
    """TV of a learned solver of one pass per step that ends with a sample."""
    return tv(law_of(world, sampler, intervals), world.joint.flatten())


def law_of(world: World, sampler: Any, intervals: int) -> Tensor:
    """Law of the finished text of such a solver, [3^3] in C order."""
    masked = isinstance(world, EnumerableDenoiser)
    return (_masked if masked else _noisy)(world, sampler, intervals)


@cache
def _posterior(world: Any) -> Tensor:
    """Log-posterior of every canvas, [4^3, L, S + 1]; the search asks for it thousands of times."""
    return world.probs(all_states(LENGTH, SYMBOLS + 1)).log()


@lru_cache(4096)
def _ratios(world: Any, t: float) -> Tensor:
    """Ratios at every canvas without a mask, [3^3, L, S]."""
    states = all_states(LENGTH, SYMBOLS)
    return world.logits(states, None, torch.full((len(states),), t, dtype=torch.float64)).exp()


def _place(states: Tensor, symbols: int) -> Tensor:
    """Number of each state in C order."""
    return states @ symbols ** torch.arange(LENGTH - 1, -1, -1)


def _masked(world: Any, sampler: Any, intervals: int) -> Tensor:
    number = torch.tensor([[intervals]])

    def step(states: Tensor, k: int) -> Tensor:
        t, s = (sampler.time_at(torch.tensor([[i]]), number) for i in (k, k + 1))
        whole = torch.ones_like(states, dtype=torch.bool)
        start = torch.zeros(len(states), dtype=torch.int64)
        canvas = Canvas(states, states == MASK, whole, start, MASK)
        log_p0 = _posterior(world)[_place(states, SYMBOLS + 1)]
        return sampler.transition_probs(canvas, log_p0, t, s)

    law = exact_chain_law(step, intervals, length=LENGTH, vocab_size=SYMBOLS + 1)
    return final_draw(law, world.probs, length=LENGTH, vocab_size=SYMBOLS + 1)


def _noisy(world: Any, sampler: Any, intervals: int) -> Tensor:
    number = torch.tensor([[intervals]])

    def step(states: Tensor, k: int) -> Tensor:
        t, s = (sampler.time_at(torch.tensor([[i]]), number) for i in (k, k + 1))
        ratios = _ratios(world, float(t))[_place(states, SYMBOLS)]
        return sampler.next_law(world.process, ratios, states, t, s)

    states, end = all_states(LENGTH, SYMBOLS), sampler.time_at(number, number)
    start = torch.full((len(states),), 1.0 / len(states), dtype=torch.float64)
    law = exact_chain_law(step, intervals, length=LENGTH, vocab_size=SYMBOLS, start=start)
    alpha, ratios = sampler.schedule.alpha(end), _ratios(world, float(end))
    loo = world.process.convert(ratios, states, alpha, "log_score", "leave_one_out")
    return law @ product_law(world.process.reverse(loo, states, alpha, torch.ones_like(alpha)))


def lowest(function: Callable[[float], float], points: Sequence[float], evaluations: int) -> float:
    """Where a function of one number is smallest: the best of rising points, then golden section.

    Args:
        function: of one number.
        points: rising; the search goes on between the neighbours of the best one.
        evaluations: of the golden section.
    """
    best = min(range(len(points)), key=lambda i: function(points[i]))
    a, b = points[max(0, best - 1)], points[min(len(points) - 1, best + 1)]
    left, right = b - GOLDEN * (b - a), a + GOLDEN * (b - a)
    low, high = function(left), function(right)
    for _ in range(evaluations):
        if low < high:
            b, right, high = right, left, low
            left = b - GOLDEN * (b - a)
            low = function(left)
        else:
            a, left, low = left, right, high
            right = a + GOLDEN * (b - a)
            high = function(right)
    return left if low < high else right


def directly(
    world: World,
    base: Any,
    begin: LearnedSteps,
    *,
    times: bool,
    sweeps: int = 6,
    evaluations: int = 8,
) -> tuple[LearnedSteps, float]:
    """The smallest TV that a search along one coordinate after the other finds.

    Only what is better is taken, so that the result is never worse than its beginning.

    Args:
        world: the law.
        base: the solver.
        begin: coefficients and times to begin with.
        times: whether the times are searched too.
        sweeps: rounds over all coordinates.
        evaluations: of each golden section.

    Raises:
        ValueError: `begin` lacks its coefficients or times.
    """
    if begin.phi is None or begin.t_grid is None:
        raise ValueError("begin: needs coefficients and times; write out those of the solver.")
    phi, grid = list(begin.phi), list(begin.t_grid)

    def now() -> float:
        return distance(
            world, replace(base, learned=LearnedSteps(tuple(phi), tuple(grid))), len(phi)
        )

    best = now()
    places = [(phi, k) for k in range(len(phi))]
    places += [(grid, k) for k in range(1, len(phi))] if times else []
    for _ in range(sweeps):
        for values, k in places:
            old = values[k]
            if values is phi:
                least, most = max(old, 0.05) * FACTORS[0], max(old, 0.05) * FACTORS[-1]
                points = [max(old, 0.05) * factor for factor in FACTORS]
            else:
                least, most = grid[k + 1], grid[k - 1]
                points = [least + (most - least) * i / 8 for i in range(9)]

            def along(
                x: float,
                values: list[float] = values,
                k: int = k,
                least: float = least,
                most: float = most,
            ) -> float:
                values[k] = min(max(x, least), most)  # points may be off by a rounding
                return now()

            found = lowest(along, points, evaluations)
            after = along(found)  # which leaves the number in its place
            best, values[k] = (after, values[k]) if after < best else (best, old)
    return LearnedSteps(tuple(phi), tuple(grid)), best

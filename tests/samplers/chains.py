"""Exact chains of solvers on a time grid that may revise tokens, under masks and uniform noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dlm_sampling import ops
from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.loop import SampleOutput, sample
from dlm_sampling.processes import Absorbing
from dlm_sampling.samplers.checks import NoiseRemoval
from dlm_sampling.samplers.moves import Interval
from dlm_sampling.samplers.revising import RevisingGrid
from dlm_sampling.schedules import Schedule
from dlm_sampling.testing import (
    EnumerableDenoiser,
    NoisyEnumerableDenoiser,
    count_states,
    exact_chain_law,
)
from dlm_sampling.types import Clock, Process

SYMBOLS, LENGTH, P_LIMIT = 3, 2, 1e-4
StepLaw = Callable[[Tensor, int], Tensor]


def joint(seed: int = 3, scale: float = 1.2, length: int = LENGTH) -> Tensor:
    """A random law over SYMBOLS ** length sequences."""
    weights = torch.randn([SYMBOLS] * length, generator=torch.Generator().manual_seed(seed))
    return (scale * weights.double()).flatten().softmax(0).view_as(weights)


def toys(schedule: Schedule, seed: int = 3) -> list[Denoiser]:
    """The exact model of one law under masks and under uniform noise."""
    return [
        EnumerableDenoiser(joint(seed)),
        NoisyEnumerableDenoiser(joint(seed), schedule=schedule),
    ]


def clock_at(k: int, steps: int) -> Clock:
    return Clock(torch.tensor([k]), torch.tensor([steps]))


def interval_at(sampler: RevisingGrid, k: int, steps: int) -> Interval:
    """The interval of step k, 0-dimensional."""
    return Interval(*(value[0] for value in sampler.interval(clock_at(k, steps))))


def prediction(toy: Denoiser, states: Tensor, schedule: Schedule, t: Tensor, reads: Any) -> Tensor:
    """The toy's prediction at the level that `schedule` has at t, as a table of kind `reads`."""
    alpha = schedule.alpha(t)
    if isinstance(toy, NoisyEnumerableDenoiser):
        t = toy.times.time_of(alpha)
    values = toy.logits(states, t=t.expand(len(states))).exp()
    return toy.process.convert(values, states, alpha, toy.kind, reads)


def clean_law(
    toy: Denoiser, states: Tensor, schedule: Schedule, t: Tensor, removal: NoiseRemoval
) -> Tensor:
    """The posterior of every position, or its argmax, [N, L, V]."""
    values = prediction(toy, states, schedule, t, toy.process.reads)
    alpha = schedule.alpha(t)
    law = toy.process.reverse(values, states, alpha, torch.ones_like(alpha))
    if removal == "sample":
        return law
    return torch.nn.functional.one_hot(law.argmax(-1), law.shape[-1]).double()


def start_law(process: Process, length: int, size: int) -> Tensor | None:
    """All masks, or all states alike."""
    if isinstance(process, Absorbing):
        return None
    return torch.full((size**length,), 1.0 / size**length, dtype=torch.float64)


def propagated(toy: Denoiser, step: StepLaw, steps: int, length: int = LENGTH) -> Tensor:
    """Law of the finished tokens, [SYMBOLS ** length]."""
    size = toy.vocab_size
    start = start_law(toy.process, length, size)
    law = exact_chain_law(step, steps, length=length, vocab_size=size, start=start)
    if size == SYMBOLS:
        return law
    return law.view([size] * length)[tuple([slice(SYMBOLS)] * length)].flatten()


def chain_law(toy: Denoiser, sampler: RevisingGrid, steps: int, length: int = LENGTH) -> Tensor:
    """The sampler's own transition, propagated over all states."""

    def step(states: Tensor, k: int) -> Tensor:
        interval = interval_at(sampler, k, steps)
        if bool(sampler.last(clock_at(k, steps))):
            return clean_law(toy, states, sampler.schedule, interval.t, sampler.noise_removal)
        reads = sampler.reads(toy.process)
        values = prediction(toy, states, sampler.schedule, interval.t, reads)
        return sampler.next_law(toy.process, values, states, interval)

    planned = sampler.schedule_length(steps)
    assert planned is not None
    return propagated(toy, step, planned, length)


def draws(
    toy: Denoiser, sampler: Any, steps: int, rows: int = 20_000, length: int = LENGTH, seed: int = 7
) -> SampleOutput:
    """Many rows of whole canvases."""
    tokens = torch.zeros(rows, length, dtype=torch.int64)
    seeds = ops.row_seeds(seed, rows)
    return sample(toy, sampler, tokens, tokens == 0, seeds=seeds, steps=steps)


def counts(*args: Any, **options: Any) -> Tensor:
    """How often each finished state was drawn."""
    return count_states(draws(*args, **options).tokens, SYMBOLS)

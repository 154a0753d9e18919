"""Exact chains of solvers on a time grid that may revise tokens, under masks and uniform noise."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from dlm_sampling import ops
from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.engine.sample import SampleOutput, sample
from dlm_sampling.processes import Absorbing
from dlm_sampling.samplers.parts.checks import NoiseRemoval
from dlm_sampling.samplers.parts.grid_move import Interval
from dlm_sampling.samplers.parts.revising_grid import RevisingGrid
from dlm_sampling.schedules import Schedule
from dlm_sampling.testing import (
    EnumerableDenoiser,
    NoisyEnumerableDenoiser,
    chi_square,
    count_states,
    exact_chain_law,
    product_law,
)
from dlm_sampling.testing.laws import all_states
from dlm_sampling.types import Clock, Process

SYMBOLS, LENGTH, P_LIMIT = 3, 2, 1e-4
StepLaw = Callable[[Tensor, int], Tensor]
row_seeds = cache(ops.row_seeds)


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
    law = prediction(toy, states, schedule, t, "posterior")
    if removal == "sample":
        return law
    return torch.nn.functional.one_hot(law.argmax(-1), law.shape[-1]).double()


def start_law(process: Process, length: int, size: int) -> Tensor | None:
    """All masks, or all states alike."""
    if isinstance(process, Absorbing):
        return None
    return torch.full((size**length,), 1.0 / size**length, dtype=torch.float64)


def finished(law: Tensor, size: int, length: int) -> Tensor:
    """A law of canvases as one of tokens: no mask is left, [SYMBOLS ** length]."""
    return law.view([size] * length)[tuple([slice(SYMBOLS)] * length)].flatten()


def step_law(toy: Denoiser, sampler: RevisingGrid, steps: int) -> StepLaw:
    """The sampler's own transition, the noise removal included."""

    def step(states: Tensor, k: int) -> Tensor:
        interval, schedule = interval_at(sampler, k, steps), sampler.schedule
        if bool(sampler.last(clock_at(k, steps))):
            return clean_law(toy, states, schedule, interval.t, sampler.noise_removal)
        values = prediction(toy, states, schedule, interval.t, sampler.reads(toy.process))
        return sampler.next_law(toy.process, values, states, interval)

    return step


def chain_law(toy: Denoiser, sampler: RevisingGrid, steps: int, length: int = LENGTH) -> Tensor:
    """Law of the finished tokens, the transition propagated over all states."""
    size, planned = toy.vocab_size, sampler.schedule_length(steps)
    assert planned is not None
    start = start_law(toy.process, length, size)
    step = step_law(toy, sampler, steps)
    law = exact_chain_law(step, planned, length=length, vocab_size=size, start=start)
    return finished(law, size, length)


def pair_law(toy: Denoiser, step: StepLaw, k: int, length: int = LENGTH) -> Tensor:
    """Joint law of the canvases before and after step k, flat."""
    size = toy.vocab_size
    start = start_law(toy.process, length, size)
    law = exact_chain_law(step, k, length=length, vocab_size=size, start=start)
    joint_law = torch.zeros(len(law), len(law), dtype=torch.float64)
    reached = law > 0
    states = all_states(length, size)[reached]
    joint_law[reached] = law[reached].unsqueeze(1) * product_law(step(states, k))
    return joint_law.flatten()


def pair_counts(out: SampleOutput, k: int, size: int) -> Tensor:
    """How often each pair of canvases was seen at step k; finished rows stay as they are."""
    assert out.trajectory is not None
    event = out.trajectory.events[k]
    before, after = out.tokens.clone(), out.tokens.clone()
    before[event.rows], after[event.rows] = event.before, event.tokens
    return count_states(torch.cat((before, after), 1), size)


def draws(
    toy: Denoiser, sampler: Any, steps: int, rows: int = 20_000, length: int = LENGTH, seed: int = 7
) -> SampleOutput:
    """Many rows of whole canvases."""
    tokens = torch.zeros(rows, length, dtype=torch.int64)
    seeds = row_seeds(seed, rows)
    options: Any = {"seeds": seeds, "steps": steps, "return_trajectory": True}
    return sample(toy, sampler, tokens, tokens == 0, **options)


def counts(*args: Any, **options: Any) -> Tensor:
    """How often each finished state was drawn."""
    return count_states(draws(*args, **options).tokens, SYMBOLS)


def check_draws(toy: Denoiser, sampler: RevisingGrid, steps: int, k: int) -> None:
    """Chi-square of the finished tokens and of the transitions of step k."""
    out = draws(toy, sampler, steps)
    law = chain_law(toy, sampler, steps)
    assert chi_square(count_states(out.tokens, SYMBOLS), law).p > P_LIMIT
    pairs = pair_law(toy, step_law(toy, sampler, steps), k)
    assert chi_square(pair_counts(out, k, toy.vocab_size), pairs).p > P_LIMIT


def chance(toy: Denoiser, drawn: RevisingGrid, claimed: RevisingGrid, steps: int, k: int) -> float:
    """p-value of the transitions of one sampler under the law of another."""
    pairs = pair_law(toy, step_law(toy, claimed, steps), k)
    return chi_square(pair_counts(draws(toy, drawn, steps), k, toy.vocab_size), pairs).p

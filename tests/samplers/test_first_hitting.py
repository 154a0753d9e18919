"""First-hitting sampling: groups on a grid are ancestral, one token per forward is the data law."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from dlm_sampling.engine.sample import sample
from dlm_sampling.ops import Rng, row_seeds
from dlm_sampling.samplers import Ancestral, FirstHitting
from dlm_sampling.samplers.parts.hitting_times import Hits, HitState
from dlm_sampling.schedules import Cosine, Geometric, HalfCosine, LogLinear, Schedule, grid_time
from dlm_sampling.testing import (
    EnumerableDenoiser,
    chi_square,
    count_states,
    exact_chain_law,
    final_draw,
    product_law,
)
from dlm_sampling.testing.laws import all_states
from dlm_sampling.types import Canvas, Clock, TokenLaw
from tests.samplers.small import run, small_toy

P_LIMIT = 1e-4
LENGTH, SYMBOLS = 3, 3
SCHEDULES: list[Schedule] = [LogLinear(0.0), LogLinear(0.2), Cosine(), HalfCosine(), Geometric()]


def world(seed: int, length: int = LENGTH) -> EnumerableDenoiser:
    weights = torch.randn(
        [SYMBOLS] * length, generator=torch.Generator().manual_seed(seed)
    ).double()
    return EnumerableDenoiser((1.5 * weights).softmax(0) / weights.shape[0] * weights.exp())


def interval_probs(schedule: Schedule, steps: int, t_end: float) -> Tensor:
    """P(a hitting time falls into the k-th interval of the grid); last entry: after it."""
    grid = grid_time(torch.arange(steps + 1), torch.tensor(steps), t_end)
    masked = (1 - schedule.alpha(grid)) / (1 - schedule.alpha(torch.ones(()).double()))
    return torch.cat([masked[:-1] - masked[1:], masked[-1:]])


def grouped_law(toy: EnumerableDenoiser, hits: Hits, steps: int) -> Tensor:
    """Sum over all assignments of positions to intervals, with the groups that `Hits` forms."""
    size, probs = SYMBOLS + 1, interval_probs(hits.schedule, steps, hits.t_end)
    grid = [
        float(grid_time(torch.tensor(k), torch.tensor(steps), hits.t_end)) for k in range(steps + 1)
    ]
    middle = [(a + b) / 2 for a, b in itertools.pairwise([*grid, -1e-9])]
    states, total = all_states(LENGTH, size), torch.zeros(SYMBOLS**LENGTH).double()
    for choice in itertools.product(range(steps + 1), repeat=LENGTH):
        weight = float(torch.stack([probs[k] for k in choice]).prod())
        tau = torch.tensor([[middle[k] for k in choice]]).double()
        law = torch.zeros(len(states)).double()
        law[-1] = 1.0
        for step in range(steps + 1):
            index = law.nonzero().squeeze(1)
            x = states[index]
            number = torch.full((len(x),), LENGTH)
            canvas = Canvas(
                x, x == SYMBOLS, torch.ones_like(x).bool(), torch.zeros_like(number), SYMBOLS
            )
            clock = Clock(torch.full_like(number, step), torch.full_like(number, steps))
            where, t = hits.next_group(HitState(tau.expand(len(x), -1), number), canvas, clock)
            assert torch.equal(where, (torch.tensor(choice) == step) & (x == SYMBOLS))
            assert t.flatten().tolist() == pytest.approx([grid[step]] * len(x))
            stay = torch.nn.functional.one_hot(x, size).double()
            stay[where] = toy.probs(x)[where]
            law = law[index] @ product_law(stay)
        total += weight * final_draw(law, toy.probs, length=LENGTH, vocab_size=size)
    return total


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize(("steps", "t_end"), [(1, 0.0), (2, 0.1), (3, 1e-5)])
def test_groups_on_a_grid_are_ancestral_exactly(
    schedule: Schedule, steps: int, t_end: float
) -> None:
    toy, sampler = world(1), Ancestral(schedule, t_end, noise_removal="sample")

    def step(states: Tensor, k: int) -> Tensor:
        log_p0 = toy(states).values.log_softmax(-1)
        canvas = Canvas(
            states,
            states == SYMBOLS,
            torch.ones_like(states).bool(),
            torch.zeros(len(states)).long(),
            SYMBOLS,
        )
        t, s = (grid_time(torch.tensor([[k + d]]), torch.tensor([[steps]]), t_end) for d in (0, 1))
        return sampler.transition_probs(canvas, log_p0, t, s)

    law = exact_chain_law(step, steps, length=LENGTH, vocab_size=SYMBOLS + 1)
    ancestral = final_draw(law, toy.probs, length=LENGTH, vocab_size=SYMBOLS + 1)
    ours = grouped_law(toy, Hits(grid=True, schedule=schedule, t_end=t_end), steps)
    assert float((ours - ancestral).abs().max()) < 1e-12


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_hitting_times_follow_the_schedule(schedule: Schedule) -> None:
    """Chi-square of the drawn times over the intervals of a grid."""
    rows, steps = 4000, 6
    x = torch.full((rows, 5), SYMBOLS)
    canvas = Canvas(x, x == SYMBOLS, torch.ones_like(x).bool(), torch.zeros(rows).long(), SYMBOLS)
    hits = Hits(schedule=schedule)
    clock = Clock(torch.zeros(rows).long(), torch.full((rows,), steps))
    tau = hits.enter_block(hits.init(canvas), canvas, clock, Rng.from_seeds(row_seeds(4, rows))).tau
    assert bool(((tau >= 0) & (tau <= 1)).all())
    index = ((1 - tau.flatten()) * steps).long().clamp(max=steps - 1)
    probs = interval_probs(schedule, steps, 0.0)
    probs[-2] += probs[-1]
    result = chi_square(torch.bincount(index, minlength=steps), probs[:-1])
    assert result.p > P_LIMIT, result


def draw(toy: Any, sampler: Any, length: int, rows: int, steps: int) -> Any:
    tokens = torch.zeros(rows, length, dtype=torch.int64)
    editable = torch.ones_like(tokens).bool()
    return sample(
        toy, sampler, tokens, editable, seeds=row_seeds(9, rows), steps=steps, law=TokenLaw()
    )


@pytest.mark.parametrize("per_step", [1, None])
def test_one_token_per_forward_is_the_data_law(per_step: int | None) -> None:
    length, toy = 4, world(2, 4)
    joint = toy_law(toy, length)
    out = draw(toy, FirstHitting(per_step), length, 20_000, length)
    assert bool((out.nfe == length).all())
    result = chi_square(count_states(out.tokens, SYMBOLS), joint)
    assert result.p > P_LIMIT, result


def test_two_tokens_per_forward_are_not() -> None:
    """Negative control."""
    length, toy = 4, world(2, 4)
    out = draw(toy, FirstHitting(2), length, 20_000, length)
    assert bool((out.nfe == 2).all())
    assert chi_square(count_states(out.tokens, SYMBOLS), toy_law(toy, length)).p < P_LIMIT


def toy_law(toy: EnumerableDenoiser, length: int) -> Tensor:
    place = SYMBOLS ** torch.arange(length - 1, -1, -1)
    law = torch.zeros(SYMBOLS**length).double()
    return law.index_add(0, (toy.points * place).sum(1), toy.weights)


@pytest.mark.parametrize("schedule", [LogLinear(0.0), HalfCosine()], ids=str)
def test_draws_on_a_grid_have_the_ancestral_law(schedule: Schedule) -> None:
    toy, steps = world(1), 2
    out = draw(toy, FirstHitting(grid=True, schedule=schedule, t_end=0.1), LENGTH, 20_000, steps)
    exact = grouped_law(toy, Hits(grid=True, schedule=schedule, t_end=0.1), steps)
    result = chi_square(count_states(out.tokens, SYMBOLS), exact)
    assert result.p > P_LIMIT, result


def test_the_order_is_uniform() -> None:
    rows = 6000
    out = run(small_toy(0), FirstHitting(1), rows=rows, steps=3, law=TokenLaw())
    assert out.trajectory is not None
    first, second = (e.written.long().argmax(1) for e in out.trajectory.events[:2])
    result = chi_square(
        torch.bincount(3 * first + second, minlength=9)[[1, 2, 3, 5, 6, 7]], torch.full((6,), 1 / 6)
    )
    assert result.p > P_LIMIT, result


def test_every_row_has_its_own_clock() -> None:
    """Rows with fewer masks finish earlier and cost less."""
    tokens = torch.zeros(4, 8, dtype=torch.int64)
    editable = torch.arange(8) < torch.tensor([[8], [5], [1], [0]])
    toy = small_toy(3, 8, 6)
    out = sample(toy, FirstHitting(2), tokens, editable, seeds=[1, 2, 3, 4], law=TokenLaw())
    assert out.nfe.tolist() == [4, 3, 1, 0]
    for b in range(3):
        alone = sample(
            toy,
            FirstHitting(2),
            tokens[b : b + 1],
            editable[b : b + 1],
            seeds=[b + 1],
            law=TokenLaw(),
        )
        assert torch.equal(alone.tokens[0], out.tokens[b])


def test_fields_out_of_range_are_named() -> None:
    with pytest.raises(ValueError, match="tokens_per_step=0"):
        FirstHitting(0)
    with pytest.raises(ValueError, match=r"t_end=1.0"):
        FirstHitting(t_end=1.0)

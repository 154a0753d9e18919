"""Glauber dynamics: exact stationarity, exact chains, rounds and levels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dlm_sampling import ops, wrap
from dlm_sampling.engine.sample import sample
from dlm_sampling.samplers import Glauber
from dlm_sampling.samplers.glauber import Scan
from dlm_sampling.schedules import LINEAR
from dlm_sampling.testing import (
    EnumerableDenoiser,
    NoisyEnumerableDenoiser,
    chi_square,
    count_states,
    product_law,
    tv,
)
from dlm_sampling.testing.laws import all_states
from dlm_sampling.types import Canvas
from tests.samplers.chains import (
    P_LIMIT,
    SYMBOLS,
    clock_at,
    draws,
    joint,
    pair_counts,
    prediction,
)
from tests.samplers.small import run as small_run
from tests.samplers.small import small_toy

LENGTH = 3
SCANS: tuple[Scan, ...] = ("sweep", "random")


def law_of(length: int = LENGTH) -> Tensor:
    return joint(5, 1.5, length)


def masked_kernel(toy: EnumerableDenoiser, i: int) -> Tensor:
    """K[x, y] of drawing position i of a whole sequence, [S^L, S^L]."""
    states = all_states(LENGTH, SYMBOLS)
    laws = torch.nn.functional.one_hot(states, SYMBOLS).double()
    hidden = states.index_fill(1, torch.tensor([i]), SYMBOLS)
    laws[:, i] = toy.probs(hidden)[:, i, :SYMBOLS]
    return product_law(laws)


def noisy_kernel(toy: NoisyEnumerableDenoiser, sampler: Glauber, i: int, t: Tensor) -> Tensor:
    states = all_states(LENGTH, SYMBOLS)
    laws = torch.nn.functional.one_hot(states, SYMBOLS).double()
    loo = prediction(toy, states, sampler.schedule, t, "leave_one_out")
    laws[:, i] = sampler.conditional(toy.process, loo, t)[:, i]
    return product_law(laws)


def test_every_step_leaves_the_data_law_alone() -> None:
    law, toy = law_of().flatten(), EnumerableDenoiser(law_of())
    for i in range(LENGTH):
        kernel = masked_kernel(toy, i)
        torch.testing.assert_close(law @ kernel, law, atol=1e-12, rtol=0)
        assert tv(law.roll(1) @ kernel, law.roll(1)) > 0.01


@pytest.mark.parametrize("level", [1e-5, 0.3, 0.8])
def test_every_step_leaves_the_noised_law_alone(level: float) -> None:
    sampler, t = Glauber(schedule=LINEAR), torch.tensor(level).double()
    toy = NoisyEnumerableDenoiser(law_of(), schedule=LINEAR)
    clean = torch.nn.functional.one_hot(all_states(LENGTH, SYMBOLS), SYMBOLS).double()
    law = law_of().flatten() @ product_law(toy.process.forward(clean, LINEAR.alpha(t)))
    for i in range(LENGTH):
        kernel = noisy_kernel(toy, sampler, i, t)
        torch.testing.assert_close(law @ kernel, law, atol=1e-12, rtol=0)


@pytest.mark.parametrize("scan", SCANS)
@pytest.mark.parametrize("rounds", [1, 3])
def test_on_masks_any_number_of_rounds_draws_from_the_data_law(scan: Scan, rounds: int) -> None:
    """The first round is an any-order draw, the others leave its law as it is."""
    toy = EnumerableDenoiser(law_of())
    out = draws(toy, Glauber(scan), rounds * LENGTH, length=LENGTH)
    assert chi_square(count_states(out.tokens, SYMBOLS), law_of().flatten()).p > P_LIMIT
    assert bool((out.nfe == rounds * LENGTH).all())
    if rounds > 1:  # the transitions of a revising step, before and after
        k = LENGTH + 1
        kernels = torch.stack([masked_kernel(toy, i) for i in range(LENGTH)])
        kernel = kernels[k % LENGTH] if scan == "sweep" else kernels.mean(0)
        pairs = (law_of().flatten().unsqueeze(1) * kernel).flatten()
        assert chi_square(pair_counts(out, k, SYMBOLS), pairs).p > P_LIMIT
        other = kernels[(k + 1) % LENGTH] if scan == "sweep" else kernels[0]
        wrong = (law_of().flatten().unsqueeze(1) * other).flatten()
        assert chi_square(pair_counts(out, k, SYMBOLS), wrong).p < 1e-6


@pytest.mark.parametrize("scan", SCANS)
@pytest.mark.parametrize(("t_start", "t_end"), [(1.0, 1e-3), (0.05, 0.05)])
def test_without_a_mask_it_has_the_propagated_law(scan: Scan, t_start: float, t_end: float) -> None:
    sampler, steps = Glauber(scan, LINEAR, t_start, t_end), 7
    toy = NoisyEnumerableDenoiser(law_of(), schedule=LINEAR)
    out = draws(toy, sampler, steps, length=LENGTH)
    law = torch.full((SYMBOLS**LENGTH,), 1.0 / SYMBOLS**LENGTH, dtype=torch.float64)
    for k in range(steps):
        t = sampler.time(canvas(), clock_at(k, steps))[0]
        kernels = torch.stack([noisy_kernel(toy, sampler, i, t) for i in range(LENGTH)])
        kernel = kernels[k % LENGTH] if scan == "sweep" else kernels.mean(0)
        if k == 4:
            pairs = (law.unsqueeze(1) * kernel).flatten()
            assert chi_square(pair_counts(out, k, SYMBOLS), pairs).p > P_LIMIT
        law = law @ kernel
    assert chi_square(count_states(out.tokens, SYMBOLS), law).p > P_LIMIT
    assert bool((out.nfe == steps).all())


def canvas(width: int = LENGTH) -> Canvas:
    tokens = torch.zeros(1, width, dtype=torch.int64)
    return Canvas(tokens, tokens == 0, tokens == 0, torch.zeros(1).long(), None)


def test_levels_fall_round_by_round_and_the_last_round_is_at_the_end() -> None:
    sampler = Glauber(t_start=0.9, t_end=0.1)
    times = [float(sampler.time(canvas(), clock_at(k, 9))) for k in range(9)]
    assert times == pytest.approx([0.9] * 3 + [0.5] * 3 + [0.1] * 3)
    times = [float(sampler.time(canvas(), clock_at(k, 7))) for k in range(7)]
    assert times == pytest.approx([0.9] + [0.5] * 3 + [0.1] * 3)
    assert [float(sampler.time(canvas(), clock_at(k, 2))) for k in range(2)] == [0.1, 0.1]


def test_falling_levels_reach_the_data_law_in_many_rounds() -> None:
    sampler, toy = Glauber("sweep", LINEAR), NoisyEnumerableDenoiser(law_of(), schedule=LINEAR)

    def error(rounds: int) -> float:
        law = torch.full((SYMBOLS**LENGTH,), 1.0 / SYMBOLS**LENGTH, dtype=torch.float64)
        for k in range(rounds * LENGTH):
            t = sampler.time(canvas(), clock_at(k, rounds * LENGTH))[0]
            law = law @ noisy_kernel(toy, sampler, k % LENGTH, t)
        return tv(law, law_of().flatten())

    assert error(12) < 0.6 * error(4)
    assert error(24) < 0.03


@pytest.mark.parametrize("scan", SCANS)
def test_a_step_changes_one_position_and_few_steps_fill_the_rest(scan: Scan) -> None:
    toy = EnumerableDenoiser(law_of())
    out = draws(toy, Glauber(scan), 8, rows=50, length=LENGTH)
    assert out.trajectory is not None
    for event in out.trajectory.events:
        assert bool(((event.tokens != event.before).sum(1) <= 1).all())
    short = draws(toy, Glauber(scan), 2, rows=50, length=LENGTH)
    assert bool((short.tokens < SYMBOLS).all())
    assert short.nfe.tolist() == [2] * 50


def test_prompts_condition_and_are_not_chosen() -> None:
    """Infilling two positions around a given one: the exact conditional law."""
    toy = EnumerableDenoiser(law_of())
    rows = 20_000
    tokens = torch.full((rows, LENGTH), 1)
    editable = torch.tensor([True, False, True]).expand(rows, LENGTH)
    options: dict[str, Any] = {"seeds": ops.row_seeds(4, rows), "steps": 6}
    for scan in SCANS:
        out = sample(toy, Glauber(scan), tokens, editable, **options)
        law = law_of()[:, 1, :].flatten()
        assert chi_square(count_states(out.tokens[:, [0, 2]], SYMBOLS), law / law.sum()).p > P_LIMIT


@pytest.mark.parametrize(
    "fields", [{"scan": "both"}, {"t_start": 1.5}, {"t_end": 0.5, "t_start": 0.1}]
)
def test_fields_are_checked(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(fields))):
        Glauber(**fields)


def test_without_a_mask_every_position_is_unknown_until_the_last_step() -> None:
    toy = small_toy(length=4, vocab_size=5)
    net = wrap(lambda input_ids: toy.logits(input_ids), vocab_size=5, mask_token_id=None)
    out = small_run(net, Glauber(), length=4, rows=2, steps=6, prompt=[1])
    assert out.trajectory is not None
    unknown = [event.unknown.int().tolist() for event in out.trajectory.events]
    assert unknown == [[[0, 1, 1, 1]] * 2] * 5 + [[[0, 0, 0, 0]] * 2]

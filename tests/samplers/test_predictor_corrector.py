"""Predictor-corrector: exact chains, stationary corrector rates, forward passes, the window."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
import torch
from torch import Tensor

from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.samplers import Euler, PredictorCorrector, TauLeaping
from dlm_sampling.samplers.predictor_corrector import PredictorName
from dlm_sampling.schedules import LINEAR, LOG_LINEAR, Cosine, Exponential, Schedule, grid_time
from dlm_sampling.testing import (
    EnumerableDenoiser,
    NoisyEnumerableDenoiser,
    chi_square,
    count_states,
    exact_chain_law,
    product_law,
    tv,
)
from dlm_sampling.testing.laws import all_states
from tests.parity.folders import fixtures_folder
from tests.samplers.chains import (
    LENGTH,
    P_LIMIT,
    SYMBOLS,
    StepLaw,
    clean_law,
    clock_at,
    draws,
    finished,
    joint,
    pair_counts,
    pair_law,
    prediction,
    start_law,
    toys,
)

SAMPLERS = [
    PredictorCorrector(noise_removal="sample"),
    PredictorCorrector("ancestral", LOG_LINEAR, 1e-3, n_correctors=2, scale=0.7),
    PredictorCorrector("euler", Cosine(), 0.1, "sample", 1, 0.3, t_on=0.7, t_off=0.2),
    PredictorCorrector("tweedie", LOG_LINEAR, 0.05, "sample", 3, 1.5, t_on=0.4),
]
KINDS = ["absorbing", "uniform"]


def toy_of(kind: str, schedule: Schedule) -> Any:
    return toys(schedule)[KINDS.index(kind)]


def step_law(toy: Denoiser, sampler: PredictorCorrector, steps: int) -> StepLaw:
    """The sampler's own tables, read at the stage of each loop step."""
    process, schedule, solver = toy.process, sampler.schedule, sampler.solver

    def step(states: Tensor, k: int) -> Tensor:
        stage = sampler.stage(clock_at(k, steps))
        t, s, time = stage.t[0], stage.s[0], stage.time[0]
        if bool(stage.last):
            return clean_law(toy, states, schedule, time, sampler.noise_removal)
        if bool(stage.corrects):
            values = prediction(toy, states, schedule, time, process.rates_read)
            return sampler.correction(process, values, states, t, s)
        values = prediction(toy, states, schedule, time, solver.reads(process))
        if sampler.predictor == "tweedie" and process.mask_token_id is not None:
            return process.reverse(values, states, schedule.alpha(t), schedule.alpha(s))
        return solver.next_law(process, values, states, t, s)

    return step


def chain_law(toy: Denoiser, sampler: PredictorCorrector, steps: int, length: int = LENGTH) -> Any:
    size, start = toy.vocab_size, start_law(toy.process, length, toy.vocab_size)
    law = exact_chain_law(
        step_law(toy, sampler, steps),
        sampler.schedule_length(steps),
        length=length,
        vocab_size=size,
        start=start,
    )
    return finished(law, size, length)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda s: s.predictor)
def test_the_sampled_law_is_the_propagated_law(sampler: PredictorCorrector, kind: str) -> None:
    toy, steps = toy_of(kind, sampler.schedule), 4
    out = draws(toy, sampler, steps)
    law = chain_law(toy, sampler, steps)
    assert chi_square(count_states(out.tokens, SYMBOLS), law).p > P_LIMIT
    stages = [sampler.stage(clock_at(k, steps)) for k in range(sampler.schedule_length(steps))]
    for k in [k for k, stage in enumerate(stages) if bool(stage.corrects)][:2]:
        pairs = pair_law(toy, step_law(toy, sampler, steps), k)
        assert chi_square(pair_counts(out, k, toy.vocab_size), pairs).p > P_LIMIT


@pytest.mark.parametrize("kind", KINDS)
def test_the_tests_tell_scales_apart(kind: str) -> None:
    toy, drawn = toy_of(kind, LINEAR), PredictorCorrector(schedule=LINEAR)
    seen = pair_counts(draws(toy, drawn, 4), 3, toy.vocab_size)
    claimed = step_law(toy, PredictorCorrector(schedule=LINEAR, scale=1.2), 4)
    assert chi_square(seen, pair_law(toy, claimed, 3)).p < 1e-6


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("level", [0.15, 0.5, 0.9])
def test_corrector_rates_leave_the_marginal_alone(kind: str, level: float) -> None:
    """p_t G = 0 over all canvases, to 1e-12."""
    toy, t = toy_of(kind, LINEAR), torch.tensor(level).double()
    process, alpha, slope = toy.process, LINEAR.alpha(t), LINEAR.rate(t)
    clean = torch.nn.functional.one_hot(all_states(LENGTH, SYMBOLS), toy.vocab_size).double()
    law = joint().flatten() @ product_law(process.forward(clean, alpha))
    states = all_states(LENGTH, toy.vocab_size)
    values = prediction(toy, states, LINEAR, t, process.rates_read)
    rates = process.rates(values, states, alpha, slope)
    rates = rates + process.noising_rates(states, alpha, slope, values)
    flow, place = torch.zeros_like(law), toy.vocab_size ** torch.arange(LENGTH - 1, -1, -1)
    for i in range(LENGTH):
        for y in range(toy.vocab_size):
            target = ((states - 0).index_fill(1, torch.tensor([i]), y) * place).sum(1)
            moved = law * rates[:, i, y]
            flow = flow.index_add(0, target, moved) - moved
    assert float(flow.abs().max()) < 1e-12
    assert float(rates.max()) > 0.1


def test_chains_are_the_reference_tables() -> None:
    """Tau-leaping with one corrector step per step, on both kinds of noise."""
    folder, seen = fixtures_folder() / "laws", 0
    stored = json.loads((folder / "toys.json").read_text())["toys"]
    for file in ("k2_mask", "k2_uniform"):
        for case in json.loads((folder / f"{file}.json").read_text())["cases"]:
            if case["sampler"] != "pc_tau":
                continue
            params, law = case["params"], torch.tensor(stored[case["toy"]], dtype=torch.float64)
            masks = file == "k2_mask"
            schedule = LINEAR if masks else Exponential(params["rate"])
            toy: Any = (
                EnumerableDenoiser(law)
                if masks
                else NoisyEnumerableDenoiser(law, schedule=schedule)
            )
            for steps, expected in case["expected"]["by_steps"].items():
                if masks:
                    sampler = PredictorCorrector(
                        schedule=schedule,
                        t_end=params["t_end"],
                        noise_removal="sample",
                        scale=params["corrector_scale"],
                    )
                    ours = chain_law(toy, sampler, int(steps), law.ndim)
                else:  # the stored chain runs to t = 0 and has no last draw
                    ours = uniform_reference(toy, schedule, params, int(steps), case)
                reference = torch.tensor(expected["law_final"], dtype=torch.float64)
                torch.testing.assert_close(ours, reference, atol=1e-9, rtol=0)
                seen += 1
    assert seen >= 4


def uniform_reference(toy: Any, schedule: Schedule, params: Any, steps: int, case: Any) -> Tensor:
    """The same two laws on a grid that ends at 0, from the stored first law."""
    sampler = PredictorCorrector(schedule=schedule, scale=params["corrector_scale"])
    process, total = toy.process, torch.tensor(steps)

    def step(states: Tensor, k: int) -> Tensor:
        t, s = (grid_time(torch.tensor(k // 2 + n), total, 0.0) for n in (0, 1))
        at = s if k % 2 else t
        values = prediction(toy, states, schedule, at, process.rates_read)
        if k % 2:
            return sampler.correction(process, values, states, t, s)
        return sampler.solver.next_law(process, values, states, t, s)

    start = torch.tensor(case["expected"]["init_law"], dtype=torch.float64)
    size = toy.vocab_size
    return exact_chain_law(step, 2 * steps, length=toy.max_length, vocab_size=size, start=start)


@pytest.mark.parametrize("kind", KINDS)
def test_correctors_improve_the_marginals(kind: str) -> None:
    """Few predictor steps with correctors are nearer to the data law than without."""
    target = joint().flatten()
    toy = toy_of(kind, LINEAR)

    def error(n: int) -> float:
        sampler = PredictorCorrector(
            schedule=LINEAR, noise_removal="sample", n_correctors=n, scale=0.3, t_on=0.9
        )
        return tv(chain_law(toy, sampler, 6), target)

    errors = [error(n) for n in (0, 1, 3)]
    assert errors[1] < 0.9 * errors[0]
    assert errors[2] < 0.9 * errors[1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "solver"), [("tau-leaping", TauLeaping), ("euler", Euler)])
def test_without_correctors_it_is_the_predictor(
    kind: str, name: PredictorName, solver: Any
) -> None:
    toy = toy_of(kind, LINEAR)
    ours = draws(toy, PredictorCorrector(name, LINEAR, n_correctors=0), 5, rows=300)
    theirs = draws(toy, solver(LINEAR, 1e-2, "argmax"), 5, rows=300)
    assert torch.equal(ours.tokens, theirs.tokens)
    assert torch.equal(ours.nfe, theirs.nfe)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [0, 1, 4])
def test_every_corrector_step_is_a_forward_pass(kind: str, n: int) -> None:
    toy = toy_of(kind, LINEAR)
    out = draws(toy, PredictorCorrector(n_correctors=n), 5, rows=60)
    limit = 5 * (1 + n) + 1
    assert bool((out.nfe <= limit).all())
    if kind == "uniform":
        assert out.nfe.tolist() == [limit] * 60


@pytest.mark.parametrize("steps", [1, 2, 7, 10])
@pytest.mark.parametrize(("t_on", "t_off"), [(1.0, 0.0), (0.6, 0.3), (0.1, 0.0), (0.05, 0.04)])
def test_the_window_says_where_correctors_act(steps: int, t_on: float, t_off: float) -> None:
    """The stages of all loop steps, against a plain loop over intervals."""
    sampler = PredictorCorrector(n_correctors=2, t_on=t_on, t_off=t_off, t_end=0.05)
    expected: list[tuple[float, bool, bool]] = []
    grid = [1.0 - 0.95 * j / steps for j in range(steps + 1)]
    for t, s in itertools.pairwise(grid):
        expected.append((t, False, False))
        if t_off - 1e-9 <= s <= t_on + 1e-9:
            expected += [(s, True, False)] * 2
    expected.append((grid[-1], False, True))
    assert sampler.schedule_length(steps) == len(expected)
    for k, (time, corrects, last) in enumerate(expected):
        stage = sampler.stage(clock_at(k, steps))
        assert float(stage.time) == pytest.approx(time, abs=1e-9)
        assert (bool(stage.corrects), bool(stage.last)) == (corrects, last)


@pytest.mark.parametrize(
    "fields",
    [
        {"predictor": "heun"},
        {"t_end": 0.0},
        {"n_correctors": -1},
        {"scale": -1.0},
        {"t_on": 2.0},
        {"t_off": 0.5, "t_on": 0.4},
    ],
)
def test_fields_are_checked(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(fields))):
        PredictorCorrector(**fields)

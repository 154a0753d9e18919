"""The measurements of learned samplers: the direct search, killed runs, and the page."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from dlm_eval.journal import SettingsChanged
from dlm_eval.lsd import learned
from dlm_eval.lsd.learned import (
    BASES,
    METHODS,
    Cell,
    equal_steps,
    learned_solvers,
    read_result,
    text_cells,
    toy_cells,
    write_result,
)
from dlm_eval.lsd.toy import LENGTH, SYMBOLS, directly, distance, law_of, lowest, noisy_toy, toy

from dlm_sampling import sample
from dlm_sampling.ops import row_seeds
from dlm_sampling.samplers import LearnedEuler, LearnedSteps, LearnedTauLeaping
from dlm_sampling.schedules import Exponential
from dlm_sampling.testing import chi_square, count_states, tv

ROOT = Path(__file__).resolve().parents[3]


WORLDS = {
    "masks": (toy(0), LearnedEuler(learned=LearnedSteps((1.0, 0.4), (1.0, 0.6, 0.2)))),
    "uniform": (
        noisy_toy(0, Exponential()),
        LearnedTauLeaping(Exponential(), 1e-3, "sample", learned=LearnedSteps((0.2, 0.1))),
    ),
}


@pytest.mark.parametrize(("world", "sampler"), WORLDS.values(), ids=WORLDS)
def test_laws_are_those_of_the_samples(world, sampler):
    rows = 40000
    tokens = torch.zeros(rows, LENGTH).long()
    everything = torch.ones_like(tokens).bool()
    out = sample(world, sampler, tokens, everything, seeds=row_seeds(1, rows), steps=2)
    counts = count_states(out.tokens, SYMBOLS)
    assert chi_square(counts, law_of(world, sampler, 2)).p > 1e-4
    plain = replace(sampler, learned=LearnedSteps())
    assert chi_square(counts, law_of(world, plain, 2)).p < 1e-4
    assert distance(world, plain, 2) == tv(law_of(world, plain, 2), world.joint.flatten())


def test_the_search_of_one_number_finds_the_lowest_of_several_valleys():
    points = [i / 4 for i in range(9)]
    assert lowest(lambda x: (x - 1.3) ** 2, points, 20) == pytest.approx(1.3, abs=1e-3)
    two = lambda x: min((x - 0.4) ** 2 + 0.1, (x - 1.7) ** 2)  # noqa: E731
    assert lowest(two, points, 20) == pytest.approx(1.7, abs=1e-3)
    assert lowest(lambda x: x, points, 20) == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize("base", BASES.values(), ids=BASES)
@pytest.mark.parametrize("times", [False, True])
def test_the_distance_minimised_directly_is_never_above_the_solver(base, times):
    world = toy(3)
    begin = equal_steps(base, 3)
    before = distance(world, base, 3)
    assert distance(world, replace(base, learned=begin), 3) == pytest.approx(before, abs=1e-12)
    learned, after = directly(world, base, begin, times=times, sweeps=2, evaluations=4)
    assert after == distance(world, replace(base, learned=learned), 3)
    assert after < before - 0.001


def test_the_direct_search_needs_its_numbers_written_out():
    with pytest.raises(ValueError, match="needs coefficients and times"):
        directly(toy(0), LearnedEuler(), LearnedSteps(), times=False)


@pytest.mark.slow
def test_a_learned_cell_has_the_distance_of_what_was_learnt(monkeypatch):
    base = "euler, log-linear"
    few = {"steps": 4, "teacher_steps": 8, "length": LENGTH, "rows": 8, "rounds": 1}
    monkeypatch.setattr(learned, "TOY_LEARNING", few)
    found = learned.measure_toy(Cell("toy", base, "LSD", 1), {})
    steps = LearnedSteps(tuple(found["phi"]), tuple(found["t_grid"]))
    assert len(steps.phi) == 4
    assert found["tv"] == distance(toy(1), replace(BASES[base], learned=steps), 4)


class Killed(BaseException):
    pass


def test_a_killed_run_measures_what_is_missing(tmp_path, monkeypatch):
    out, seen = tmp_path / "lsd.json", []

    def fake(cell, found):
        seen.append(cell)
        if len(seen) == 4:
            raise Killed
        return {"tv": 0.1, "phi": [1.0], "t_grid": [1.0, 0.0]}

    monkeypatch.setattr(learned, "measure_toy", fake)
    with pytest.raises(Killed):
        learned.measure_toys(out)
    part = learned.measure_toys(out)
    assert len(seen) == len(set(toy_cells())) + 1
    assert len(part["records"]) == len(set(toy_cells()))
    monkeypatch.setattr(learned, "TOY_ADAM", {"rows": 1})
    with pytest.raises(SettingsChanged, match=r"adam: .* was"):
        learned.measure_toys(out)


def test_the_result_keeps_parts_that_were_not_measured_again(tmp_path):
    out = tmp_path / "lsd.json"
    one = {"toy": {"learning": {"steps": 4}, "records": [{"a": 1}, {"b": 2}]}}
    two = {"text": {"records": [{"c": 3}]}}
    write_result(out, one)
    assert write_result(out, two) == one | two
    assert json.loads(out.read_text()) == one | two


def test_plans_name_every_cell_once():
    for cells in (list(toy_cells()), list(text_cells())):
        assert len(set(cells)) == len(cells)
    assert {cell.number for cell in text_cells()} == {8, 16, 32}


def test_the_committed_result_has_every_cell():
    names = ("part", "base", "method", "number")
    result = read_result()
    plans = {
        "toy": set(toy_cells()),
        "text": {cell for cell in text_cells() if cell.method in METHODS},
    }
    for part, plan in plans.items():
        measured = [Cell(*(record[name] for name in names)) for record in result[part]["records"]]
        assert len(measured) == len(set(measured))
        assert set(measured) == plan


def test_learned_solvers_take_the_coefficients_of_their_record():
    records = {
        (r["base"], r["method"], r["number"]): r["phi"] for r in read_result()["text"]["records"]
    }
    for base, method, steps, solver in learned_solvers():
        phi = records.get((base, method, steps))
        assert solver.learned.phi == (None if phi is None else tuple(phi))

"""The measurements of learned samplers: the direct search, killed runs, and the page."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from dlm_eval.journal import SettingsChanged
from dlm_eval.lsd import learned
from dlm_eval.lsd.learned import BASES, Cell, equal_steps, text_cells, toy_cells, write_result
from dlm_eval.lsd.page import difference, render
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


def test_differences_are_text_by_text():
    records = [
        {"base": "b", "number": 8, "method": "phi = 1", "nats": [1.0, 5.0, 3.0]},
        {"base": "b", "number": 8, "method": "LSD", "nats": [0.9, 4.9, 2.8]},
    ]
    centre, error = difference(records[1], records)
    assert centre == pytest.approx(-0.4 / 3)
    assert error == pytest.approx(0.1 / 3)
    assert difference(records[0], records) is None


def test_the_page_is_what_the_result_file_says():
    result = json.loads((ROOT / "eval" / "results" / "lsd.json").read_text(encoding="utf-8"))
    assert (ROOT / "eval" / "LSD.md").read_text(encoding="utf-8") == render(result)
    names = ("part", "base", "method", "number")
    for part in ("toy", "text"):
        measured = [Cell(*(record[name] for name in names)) for record in result[part]["records"]]
        plan = list(toy_cells() if part == "toy" else text_cells())
        assert len(measured) == len(set(measured))
        assert set(measured) == set(plan)

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from dlm_eval.comparison import samplers as compare_samplers
from dlm_eval.comparison.cells import LAWS, SWEEPS, Budgets, Cell, own_law
from dlm_eval.comparison.page import render
from dlm_eval.comparison.reading import judge_sudoku, judge_text, weights
from dlm_eval.comparison.samplers import identity, measurable, measure_world
from dlm_eval.journal import Journal, SettingsChanged
from dlm_eval.tasks import worlds
from dlm_eval.tasks.worlds import SudokuWorld, text_world

ROOT = Path(__file__).resolve().parents[3]
TINY = Budgets((2, 4), (8,), (8,))
NAMES = ("ancestral", "remdm-cap")


def tiny_sudoku(samples=4, seed=0):
    return SudokuWorld(samples=samples, seed=seed, budgets=TINY)


def measure(out, world, names=NAMES):
    return measure_world(world, names, names, out, workers=1)


@pytest.fixture
def still(monkeypatch):
    """A clock that stands still, so that files can be compared byte for byte."""
    monkeypatch.setattr(worlds, "clock", lambda: (0.0, 0.0))


class Killed(BaseException):
    pass


def kill_after(monkeypatch, count):
    """Let `count` measurements end, then stop as a kill would."""
    whole, done = compare_samplers._work, []

    def work(cell):
        if len(done) == count:
            raise Killed
        done.append(cell)
        return whole(cell)

    monkeypatch.setattr(compare_samplers, "_work", work)
    return done


@pytest.mark.usefixtures("still")
def test_a_killed_run_continues_to_the_identical_files(tmp_path, monkeypatch):
    world = tiny_sudoku()
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    compare_samplers.write_result(one, {"sudoku": measure(one, world)})
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_after(patch, 7)
        measure(two, world)
    journal = tmp_path / "two.sudoku.jsonl"
    assert len(journal.read_text().splitlines()) == 8
    with journal.open("a") as file:  # what a kill in the middle of a write leaves
        file.write('{"task": "model, 0 cl')
    with monkeypatch.context() as patch:
        repeated = kill_after(patch, 10**6)
        part = measure(two, world)
    compare_samplers.write_result(two, {"sudoku": part})
    assert len(repeated) == len(world.cells(NAMES)) - 7
    assert journal.read_bytes() == (tmp_path / "one.sudoku.jsonl").read_bytes()
    assert two.read_bytes() == one.read_bytes()


@pytest.mark.usefixtures("still")
def test_a_finished_run_measures_nothing_again(tmp_path, monkeypatch):
    part = measure(tmp_path / "r.json", tiny_sudoku())
    repeated = kill_after(monkeypatch, 0)
    assert measure(tmp_path / "r.json", tiny_sudoku()) == part
    assert not repeated


@pytest.mark.usefixtures("still")
def test_samplers_measured_one_by_one_give_the_same_result(tmp_path):
    world = tiny_sudoku()
    whole = measure(tmp_path / "whole.json", world)
    for name in reversed(NAMES):
        part = measure_world(world, NAMES, [name], tmp_path / "parts.json", workers=1)
    assert part == whole


def test_changed_settings_are_refused(tmp_path):
    measure(tmp_path / "r.json", tiny_sudoku(), ["llada"])
    with pytest.raises(SettingsChanged, match="settings: samples was 4 and is now 5"):
        measure(tmp_path / "r.json", tiny_sudoku(samples=5), ["llada"])
    with pytest.raises(SettingsChanged, match="seed was 0 and is now 1"):
        measure(tmp_path / "r.json", tiny_sudoku(seed=1), ["llada"])


def test_changed_parameters_of_a_sampler_are_refused(tmp_path):
    measure(tmp_path / "r.json", tiny_sudoku(), ["llada"])
    journal = tmp_path / "r.sudoku.jsonl"
    journal.write_text(journal.read_text().replace("order='confidence'", "order='margin'"))
    with pytest.raises(SettingsChanged, match=r"llada was .*margin.* and is now .*confidence"):
        measure(tmp_path / "r.json", tiny_sudoku(), ["llada"])


def test_the_journal_keeps_whole_lines_only(tmp_path):
    path = tmp_path / "j.jsonl"
    Journal(path, {"a": (1, 2)}).append({"x": 1})
    path.write_bytes(path.read_bytes() + b'{"x": 2')
    journal = Journal(path, {"a": [1, 2]})
    journal.append({"x": 3})
    assert Journal(path, {"a": [1, 2]}).records == [{"x": 1}, {"x": 3}]


@pytest.mark.slow
def test_processes_give_what_one_process_gives(tmp_path):
    world = SudokuWorld(samples=3, budgets=Budgets((2,)))
    one = measure_world(world, ["llada"], ["llada"], tmp_path / "one.json", workers=1)
    two = measure_world(world, ["llada"], ["llada"], tmp_path / "two.json", workers=2)
    times = ("wall", "cpu")
    for a, b in zip(one["records"], two["records"], strict=True):
        assert {k: v for k, v in a.items() if k not in times} == {
            k: v for k, v in b.items() if k not in times
        }


def test_every_sampler_is_planned_under_its_own_and_the_plain_law():
    names = measurable()
    plan = SudokuWorld().cells(names)
    assert len({identity(cell) for cell in plan}) == len(plan)
    for name in names:
        laws = {cell.law for cell in plan if cell.sampler == name}
        assert {"plain", own_law(name)} <= laws
        assert laws <= {*LAWS, "own"}
    assert not any(" at 0x" in cell.rule for cell in plan)


@pytest.mark.parametrize("name", measurable())
def test_the_planned_steps_are_swept_where_and_only_where_they_are_read(name):
    """Else rows of the table would repeat each other, or a sampler would lack a budget."""
    world = SudokuWorld(samples=6)
    sweep = SWEEPS.get(name)
    option = None if sweep is None else (sweep.option, sweep.values["sudoku"][-1])
    nfe = []
    for steps in (2, 16):
        _, facts = world.run(Cell("oracle, 0 clues", name, "plain", steps, option))
        nfe.append(facts["nfe"])
    if sweep is None:
        assert nfe[0] < nfe[1]
    elif sweep.steps is None:
        assert nfe[0] == nfe[1]


def test_the_oracle_fills_valid_grids_one_cell_at_a_time():
    world = SudokuWorld(samples=20)
    for task in ("oracle, 0 clues", "oracle, 5 clues"):
        tokens, facts = world.run(Cell(task, "llada", "plain", 16))
        score = world.score(task, tokens)
        assert score["valid"] == 20 and score["distinct"] > 10
        assert facts["nfe"] == (16 if "0 clues" in task else 11)


BOOKS = {"learnt": "the cat sat on the mat. ", "held": "a dog ran to the old hill. "}


@pytest.fixture(scope="module")
def small_text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("books")
    for name, text in {**BOOKS, "judged": "the dog sat. a cat ran to the mat. "}.items():
        (folder / f"{name}.txt").write_text(text * 40)
    split = folder / "split.py"
    split.write_text("TRAIN_BOOKS = ('learnt',)\nHELD_OUT_BOOKS = ('held',)\n")
    return text_world(
        folder, split, samples=3, prompt_tokens=4, new_tokens=6, budgets=Budgets((2, 3), (8,), (8,))
    )


def test_the_judge_and_the_prompts_come_from_separate_books(small_text):
    settings = small_text.settings()
    assert settings["judge books"] == ["judged"]
    assert settings["prompts from"] == ["held"]
    text = worlds.denoiser("tiny-books").tokenizer.decode(small_text.prompts[0].tolist())
    assert text.strip() in BOOKS["held"] * 2
    assert small_text.counts.sum() > 100


def test_text_records_hold_one_value_per_prompt(small_text):
    tokens, facts = small_text.run(Cell("prompted", "pc-sampler", "greedy", 3))
    assert torch.equal(tokens[:, :4], small_text.prompts)
    assert facts["nfe"] == 3
    score = small_text.score("prompted", tokens)
    own = -small_text.judge.log_probs(tokens[1].numpy())[4:].mean()
    assert score["nats"][1] == pytest.approx(own, abs=1e-4)
    assert len(score["nats"]) == len(score["entropy"]) == 3


def test_baselines_are_interpolated_in_log_nfe():
    points = [{"nfe": 4.0, "valid": 0}, {"nfe": 16.0, "valid": 100}]
    assert weights(points, 8.0) == pytest.approx([0.5, 0.5])
    assert weights(points, 99.0) == pytest.approx([0.0, 1.0])
    verdict = judge_sudoku({"nfe": 8.0, "valid": 80}, points, 100)
    assert (verdict.outcome, verdict.delta) == ("better", pytest.approx(0.3))
    assert judge_sudoku({"nfe": 8.0, "valid": 55}, points, 100).outcome == "same"
    assert judge_sudoku({"nfe": 8.0, "valid": 20}, points, 100).outcome == "worse"


def test_lower_perplexity_by_loops_is_told_apart():
    rng = np.random.default_rng(0)
    nats, entropy = rng.normal(5, 1, 16), rng.normal(3.5, 0.1, 16)
    points = [{"nfe": 4.0, "nats": list(nats), "entropy": list(entropy)}]
    noise = rng.normal(0, 0.05, 16)
    noise -= noise.mean()

    def outcome(gain, loss):
        record = {"nfe": 4.0, "nats": list(nats - gain + noise), "entropy": list(entropy - loss)}
        return judge_text(record, points, 16).outcome

    assert outcome(0.5, 0.0) == "better"
    assert outcome(0.5, 1.0) == "better, less varied"
    assert outcome(0.0, 0.0) == "same"
    assert outcome(-0.5, 0.0) == "worse"


def test_the_page_shows_the_numbers_of_the_file(tmp_path, small_text, monkeypatch):
    monkeypatch.setattr(compare_samplers, "is_experimental", lambda name: name == "remdm-cap")
    out = tmp_path / "r.json"
    names = ("ancestral", "llada", "remdm-cap")
    parts = {w.name: measure(out, w, names) for w in (tiny_sudoku(), small_text)}
    result = compare_samplers.write_result(out, parts)
    assert json.loads(out.read_text()) == result
    page = render(result)
    assert "`remdm-cap` (experimental)" in page
    for part in parts.values():
        assert part["command"] in page
        for record in part["records"]:
            assert f"{record['nfe']:.1f}" in page
    for record in parts["sudoku"]["records"]:
        assert f"{100 * record['valid'] / 4:.1f} ± " in page
    assert f"perplexity {np.exp(np.mean(parts['text']['reference']['nats'])):.0f}" in page


def test_a_world_measured_later_keeps_the_other(tmp_path):
    out = tmp_path / "r.json"
    compare_samplers.write_result(out, {"sudoku": {"records": [1]}})
    result = compare_samplers.write_result(out, {"text": {"records": [2]}})
    assert list(result["worlds"]) == ["text", "sudoku"]


def test_the_committed_page_is_the_rendering_of_the_committed_result():
    result = json.loads((ROOT / "eval" / "results" / "samplers.json").read_text())
    assert (ROOT / "eval" / "SAMPLERS.md").read_text() == render(result)


def test_wrong_options_are_named(capsys):
    for options, message in (
        ({"only": ["lada"]}, "llada"),
        ({"worlds": "texts"}, "text"),
        ({"worlds": "text"}, "--books"),
    ):
        with pytest.raises(compare_samplers.typer.Exit):
            compare_samplers.main(**{"only": None, "books": None, **options})
        assert message in capsys.readouterr().err

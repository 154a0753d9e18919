"""Samplers side by side: the same samples whoever runs them, settings, figures, the command."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dlm_eval.comparison import figures
from dlm_eval.comparison.figures import figures_of
from dlm_eval.comparison.part import Part, Weights
from dlm_eval.comparison.points import Point
from dlm_eval.comparison.run import Comparison, Measured, run, samples_of
from dlm_eval.comparison.settings import Law, Setting, check_names, settings_of, sweeps_of
from dlm_eval.comparison.tasks import (
    FileTask,
    SudokuTask,
    Task,
    TextTask,
    read_file_task,
)
from dlm_eval.comparison.warnings import unbound
from dlm_eval.journal import SettingsChanged
from dlm_eval.judges.causal import CausalJudge
from dlm_eval.judges.diversity import entropies
from dlm_eval.judges.mauve import mauve
from dlm_eval.judges.ngram_texts import NGramTexts
from dlm_eval.judges.scores import TextScores
from dlm_eval.report import Plot
from dlm_eval.report.results import Json
from dlm_eval.text.score import Protocol

from dlm_sampling import AutoDenoiser
from dlm_sampling import samplers as samplers_of
from dlm_sampling.errors import UsageError
from dlm_sampling.jobs import Rank

FACTS = {"subject": {"model": "sudoku4x4"}}
TASK = SudokuTask(samples=5, clues=6)


def comparison(batch_rows: int = 2) -> Comparison:
    sweeps = sweeps_of(["fast-dllm.threshold=0.9"], "sudoku", ["fast-dllm"])
    settings = settings_of(("ancestral", "fast-dllm"), (4,), (Law(1.0),), sweeps, "sudoku")
    return Comparison(
        denoiser=AutoDenoiser.from_pretrained("sudoku4x4"),
        task=TASK,
        settings=tuple(settings),
        samples=5,
        batch_rows=batch_rows,
        seed=7,
        arguments={},
    )


def samples(measured: list[Measured] | None) -> list[dict[str, Any]]:
    assert measured is not None
    return list(samples_of(TASK, measured, {}))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Measured]]:
    folder = tmp_path_factory.mktemp("whole")
    measured = run(comparison(), folder, FACTS, Rank(), progress=False)
    assert measured is not None
    return folder, measured


def test_processes_give_the_samples_of_one(
    tmp_path: Path, whole: tuple[Path, list[Measured]]
) -> None:
    assert run(comparison(), tmp_path, FACTS, Rank(1, 2), progress=False) is None
    both = run(comparison(), tmp_path, FACTS, Rank(0, 2), progress=False)
    assert samples(both) == samples(whole[1])


def test_the_batch_does_not_matter(tmp_path: Path, whole: tuple[Path, list[Measured]]) -> None:
    assert samples(run(comparison(5), tmp_path, FACTS, Rank(), progress=False)) == samples(whole[1])


def test_a_killed_run_goes_on_and_repeats_nothing(
    tmp_path: Path, whole: tuple[Path, list[Measured]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that a kill leaves is a journal whose last line may be cut; batches may be others."""
    from dlm_eval.comparison import run as module

    lines = (whole[0] / "journal" / "0.jsonl").read_bytes().splitlines(keepends=True)
    journal = tmp_path / "journal" / "0.jsonl"
    journal.parent.mkdir()
    journal.write_bytes(b"".join(lines[:3]) + lines[3][:40])
    ran: list[tuple[str, int, int]] = []
    once = module.run_batch

    def count(c: Comparison, setting: Setting, first: int, last: int) -> dict[str, Any]:
        ran.append((setting.sampler, first, last))
        return once(c, setting, first, last)

    monkeypatch.setattr(module, "run_batch", count)
    resumed = run(comparison(batch_rows=3), tmp_path, FACTS, Rank(), progress=False)
    assert samples(resumed) == samples(whole[1])
    # The facts and two batches of two rows were whole.
    assert ran == [("ancestral", 4, 5), ("fast-dllm", 0, 3), ("fast-dllm", 3, 5)]
    with pytest.raises(SettingsChanged, match="subject: model"):
        run(comparison(), tmp_path, {"subject": {"model": "other"}}, Rank(1, 2), progress=False)


@pytest.mark.slow
def test_a_refusal_is_forgotten_with_the_code_that_refused(
    tmp_path: Path, whole: tuple[Path, list[Measured]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from dlm_eval.comparison import run as module

    plain, ran = module.generate, 0

    def refuse(*_: Any, **__: Any) -> Any:
        nonlocal ran
        ran += 1
        raise ValueError("not on this model")

    monkeypatch.setattr(module, "warm_up", lambda _: None)
    monkeypatch.setattr(module, "generate", refuse)
    for _ in range(2):  # the second time the journal tells it
        found = run(comparison(), tmp_path, FACTS, Rank(), progress=False)
        assert found is not None and {one.refused for one in found} == {"not on this model"}
        assert ran == 6
    monkeypatch.setattr(module, "generate", plain)
    assert run(comparison(), tmp_path, FACTS, Rank(), progress=False) == found
    monkeypatch.setattr(module, "code_digest", lambda _: "another")
    assert samples(run(comparison(), tmp_path, FACTS, Rank(), progress=False)) == samples(whole[1])


@pytest.mark.parametrize("error", [MemoryError, RuntimeError])
def test_a_batch_that_does_not_fit_is_halved(
    error: type[Exception],
    tmp_path: Path,
    whole: tuple[Path, list[Measured]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from dlm_eval.comparison import run as module

    plain = module.generate

    def small(denoiser: Any, prompts: Sequence[Any], **given: Any) -> Any:
        if len(prompts) > 2:
            raise error("DefaultCPUAllocator: not enough memory")
        return plain(denoiser, prompts, **given)

    monkeypatch.setattr(module, "generate", small)
    assert samples(run(comparison(5), tmp_path, FACTS, Rank(), progress=False)) == samples(whole[1])


def test_figures_are_those_of_the_samples(whole: tuple[Path, list[Measured]]) -> None:
    _, measured = whole
    found = figures_of(TASK, measured, None)
    values = {(m.group, m.name): m.value for m in found.metrics}
    group = "fast-dllm, threshold 0.9, T 1"
    rows = [row for row in samples(measured) if row["group"] == group]
    nfe = [row["nfe"] for row in rows]
    assert values[group, "NFE"] == np.mean(nfe)
    assert values[group, "tokens per forward"] == pytest.approx(5 * 10 / sum(nfe))  # 6 clues of 16
    assert values[group, "accuracy"] == 100 * np.mean([row["right"] for row in rows])
    for row in rows:  # a clue is never written, every other cell in one of the passes
        given = np.array([cell != "." for cell in row["prompt"]])
        when = np.array(row["written"])
        assert (when[given] == 0).all() and set(when[~given]) == set(range(1, row["nfe"] + 1))
    assert any("does not bind fast-dllm" in warning for warning in found.warnings)
    assert {m.group for m in found.metrics if m.name == "AUP"} == {
        "ancestral, T 1, all budgets",
        "fast-dllm, T 1, all budgets",
    }
    assert len(found.plots) == 3


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots without their pictures, which take seconds; other tests here draw them."""

    def empty(title: str, caption: str, paint: object, **_: object) -> Plot:
        return Plot(title=title, caption=caption, light="", dark="")

    monkeypatch.setattr(figures, "draw", empty)


class CountsKinds:
    """A judge of texts of numbers: one nat for each different token."""

    def facts(self, *, add_bos: bool = False) -> dict[str, Json]:
        return {"judge": "by hand"}

    def score(
        self, texts: Sequence[str], *, add_bos: bool = False, batch_size: int = 8
    ) -> TextScores:
        ids = tuple(tuple(map(int, text.split())) for text in texts)
        nll = np.array([len(set(row)) * 1.0 for row in ids])
        return TextScores(nll, np.array([len(row) for row in ids]), ids)


@pytest.mark.usefixtures("no_pictures")
def test_collapsed_entropy_stands_in_the_warnings() -> None:
    """The text that repeats itself has the lower perplexity, and is warned of."""

    def cell(name: str, ids: list[int]) -> Measured:
        rows = [
            {"row": i, "seed": i, "text": " ".join(map(str, ids)), "ids": ids, "nfe": 4,
             "written": [1, 2, 3, 4]}
            for i in range(2)
        ]  # fmt: skip
        return Measured(Setting(name, Law(), 4), tuple(rows), (1.0,))

    cells = [cell("ancestral", [1, 2, 3, 4]), cell("llada", [1, 1, 1, 1])]
    found = figures_of(TextTask(4), cells, Protocol(judge=CountsKinds()))
    values = {(m.group, m.name): m.value for m in found.metrics}
    assert values["ancestral, 4 steps", "generative perplexity"] == pytest.approx(np.exp(1.0))
    assert values["llada, 4 steps", "generative perplexity"] == pytest.approx(np.exp(0.25))
    assert values["llada, 4 steps", "unigram entropy"] == 0.0
    warnings = [w for w in found.warnings if "collapsed" in w]
    assert len(warnings) == 1 and warnings[0].startswith("llada, 4 steps")
    # ln 4 = 1.386 nats; (1, 1, 2, 3) has 1.040, and (1, 1, 2, 2) 0.693, more than 0.5 below
    for ids, count in (([1, 1, 2, 3], 0), ([1, 1, 2, 2], 1)):
        cells = [cell("ancestral", [1, 2, 3, 4]), cell("llada", ids)]
        told = figures_of(TextTask(4), cells, Protocol(judge=CountsKinds())).warnings
        assert sum("collapsed" in warning for warning in told) == count


def _written(ids: list[list[int]]) -> Measured:
    rows = [
        {"row": i, "seed": i, "text": " ".join(map(str, one)), "ids": one, "nfe": 2,
         "written": [1, 2]}
        for i, one in enumerate(ids)
    ]  # fmt: skip
    return Measured(Setting("llada", Law(0.0), 2), tuple(rows), (1.0,))


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize(
    ("task", "ids", "copies"),
    [
        (TextTask(2), [[1, 2], [1, 2], [1, 3], [1, 2]], 2),
        (TextTask(2, ("a", "b")), [[1, 2], [1, 2], [1, 3], [1, 2]], 1),  # prompts a b a b
        (TextTask(2, ("a", "b", "c", "d")), [[1, 2]] * 4, 0),
        # Of right or wrong answers only those of a sampler that always gives the same.
        (FileTask("t", (("a", "1 2"),) * 4, 2), [[1, 2], [1, 2], [1, 3], [1, 2]], 0),
        (FileTask("t", (("a", "1 2"),) * 4, 2), [[1, 2]] * 4, 3),
        (FileTask("t", (("a", "1 2"), ("b", "1 2")) * 2, 2), [[1, 2], [1, 3]] * 2, 2),
    ],
)
def test_copies_are_no_samples(task: Task, ids: list[list[int]], copies: int) -> None:
    warnings = figures_of(task, [_written(ids)], None).warnings
    told = [warning for warning in warnings if "copies" in warning]
    assert [warning.split(" texts")[0] for warning in told] == (
        [f"llada, 2 steps, T 0: {copies} of 4"] if copies else []
    )


@pytest.mark.usefixtures("no_pictures")
def test_what_settings_share_is_one_line() -> None:
    cells = [_written([[1, 2]] * 4), _written([[1, 2]] * 4), _written([[3, 4]] * 3 + [[1, 2]])]
    for i, name in enumerate(("llada", "klass", "ccd")):
        setting = Setting(name, Law(0.0), 2)
        cells[i] = Measured(setting, cells[i].rows, (1.0,))
    told = [w for w in figures_of(TextTask(2), cells, None).warnings if "copies" in w]
    assert [warning.split(" texts")[0] for warning in told] == [
        "llada, 2 steps, T 0; klass, 2 steps, T 0: 3 of 4",
        "ccd, 2 steps, T 0: 2 of 4",
    ]


def test_samplers_of_one_rule_share_the_line_that_nfe_does_not_bind_them() -> None:
    def point(name: str, sampler: str, steps: int, nfe: float) -> Point:
        setting = Setting(name, Law(), steps, instance=samplers_of.create(sampler))
        return Point(setting, nfe, 1.0, 1.0, 0.1, None, 0.0)

    points = [
        point("a", "ancestral", 16, 13.3), point("b", "ancestral", 16, 4.7),
        point("a", "ancestral", 32, 20.0), point("c", "llada", 16, 16.0),
    ]  # fmt: skip
    rule = samplers_of.create("ancestral").nfe
    assert unbound(points) == [
        f"--nfe does not bind a; b ({rule}): 16 gave 4.7 to 13.3, 32 gave 20.0."
    ]


@pytest.mark.usefixtures("no_pictures")
def test_references_longer_than_the_texts_are_no_collapse() -> None:
    """Both are read over as many tokens, as `eval text` does."""
    rows = tuple(
        {"row": i, "seed": i, "text": "1 2 3 4", "ids": [1, 2, 3, 4], "nfe": 4,
         "written": [1, 2, 3, 4]}
        for i in range(2)
    )  # fmt: skip
    long = (" ".join(map(str, range(1, 40))),) * 2
    for text, count in (("1 2 3 4", 0), ("1 1 1 1", 1)):
        ids = [int(word) for word in text.split()]
        written = tuple({**row, "text": text, "ids": ids} for row in rows)
        cells = [Measured(Setting("llada", Law(), 4), written, (1.0,))]
        found = figures_of(TextTask(4), cells, Protocol(judge=CountsKinds(), references=long))
        told = [warning for warning in found.warnings if "collapsed" in warning]
        assert len(told) == count and all(w.startswith("llada, 4 steps: ") for w in told)


def test_other_weights_are_another_comparison(tmp_path: Path) -> None:
    """The same name may hold other weights tomorrow: figures of the old ones are not shown."""
    denoiser = AutoDenoiser.from_pretrained("sudoku4x4")
    task, setting = SudokuTask(samples=2, clues=6), Setting("llada", Law(), 2)
    part = Part("grids", Weights("sudoku4x4"), lambda _: task, (setting,), 2)
    part.run(denoiser, task, tmp_path, Rank(), progress=False)
    assert denoiser.module is not None
    with torch.no_grad():
        next(denoiser.module.parameters()).view(-1)[0] += 1.0
    with pytest.raises(SettingsChanged, match="weights was"):
        part.run(denoiser, task, tmp_path, Rank(), progress=False)


def test_a_given_sweep_keeps_the_steps_that_its_sampler_reads() -> None:
    names = ["fast-dllm-dream", "llada2"]
    found = sweeps_of(["fast-dllm-dream.threshold=0.8", "llada2.threshold=0.9, 0.5"], "text", names)
    assert found["fast-dllm-dream"].values == {"text": (0.8,)}
    assert found["fast-dllm-dream"].steps == 4
    assert found["llada2"].values == {"text": (0.9, 0.5)} and found["llada2"].steps is None


def test_sweeps_of_one_sampler_add_up_and_two_parameters_are_refused() -> None:
    names = ["dinfer-hierarchy", "llada2"]
    given = ["llada2.threshold=0.9", "dinfer-hierarchy.low_threshold=0.2", "llada2.threshold=0.5"]
    found = sweeps_of(given, "text", names)
    assert found["llada2"].values == {"text": (0.9, 0.5)}
    assert found["dinfer-hierarchy"].values == {"text": (0.2,)}
    told = "dinfer-hierarchy is swept by low_threshold already"
    with pytest.raises(UsageError, match=told):
        sweeps_of([*given, "dinfer-hierarchy.threshold=0.9"], "text", names)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("fast-dllm", "must be like"),
        ("fast-dlm.threshold=0.9", "fast-dllm"),
        ("fast-dllm.treshold=0.9", "^--sweep fast-dllm.treshold=0.9: parameter='treshold'"),
        ("fast-dllm-dream.threshold=0.9", "--samplers does not name fast-dllm-dream"),
        ("gillespie.events_per_step=0", "events_per_step"),
        ("fast-dllm.threshold=high", "high"),
    ],
)
def test_a_wrong_sweep_is_refused_in_one_line(given: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        sweeps_of([given], "text", ("fast-dllm", "gillespie"))


def test_wrong_samplers_are_refused_in_one_line() -> None:
    for names, message in (((), "at least one"), (("ladda",), "llada"), (("duo",), "duo: is for"),
                           (("llada", "llada"), "twice")):  # fmt: skip
        with pytest.raises(UsageError, match=message):
            check_names(names, "absorbing")


@pytest.mark.parametrize(
    ("budgets", "laws", "sweep", "twice"),
    [
        ((8, 8), (Law(),), (), "'llada, 8 steps'"),
        ((8,), (Law(1.0), Law(1.0)), (), "'llada, 8 steps, T 1'"),
        ((8,), (Law(),), ("fast-dllm.threshold=0.5,0.50",), "'fast-dllm, threshold 0.5'"),
        ((8,), (Law(),), ("fast-dllm.threshold=0.5,0.50000001",), "'fast-dllm, threshold 0.5'"),
    ],
)
def test_settings_of_one_name_are_refused(
    budgets: tuple[int, ...], laws: tuple[Law, ...], sweep: tuple[str, ...], twice: str
) -> None:
    """They would share the batches of the journal and stand in one row."""
    with pytest.raises(UsageError, match=f"{twice} is asked for 2 times"):
        settings_of(
            ("llada", "fast-dllm"), budgets, laws, sweeps_of(sweep, "text", ["fast-dllm"]), "text"
        )


def test_an_answer_is_compared_without_spaces_commas_and_case() -> None:
    task = FileTask("t", (("2+2", "1,000"), ("Colour?", "Red")), 8, r"#### (\S+)")
    assert task.right(0, "so 4 #### 7 and #### 1000", ()) is True
    assert task.right(0, "1000", ()) is False
    assert FileTask("t", task.rows, 8).right(1, " r e d", ()) is True


def test_a_wrong_task_file_is_refused_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "task.jsonl"
    with pytest.raises(UsageError, match="--task"):
        read_file_task(file, 1, None, None)
    for text, why in ((b"", "holds no line"), (b"\xff", "is no text in UTF-8")):
        file.write_bytes(text)
        with pytest.raises(UsageError, match=f"^--task .*task.jsonl: {why}"):
            read_file_task(file, 1, None, None)
    file.write_text('{"prompt": "p", "answer": "a"}\n{"prompt": "p"}\n', encoding="utf-8")
    with pytest.raises(UsageError, match="line 2"):
        read_file_task(file, 1, None, None)
    file.write_text('{"prompt": "p", "answer": "a"}\n', encoding="utf-8")
    with pytest.raises(UsageError, match="has 1 lines"):
        read_file_task(file, 2, None, None)
    with pytest.raises(UsageError, match="answer-pattern"):
        read_file_task(file, 1, None, "(")


def test_a_prompt_without_a_mask_is_not_filled(tmp_path: Path) -> None:
    """It would be continued by the default of 128 tokens."""
    denoiser = AutoDenoiser.from_pretrained("tiny-books")
    mask, file = denoiser.tokenizer.mask_token, tmp_path / "task.jsonl"
    lines = [f'{{"prompt": "{p}", "answer": "a"}}' for p in (f"the {mask} door", "the door")]
    file.write_text(lines[0] + "\n\n" + lines[1] + "\n", encoding="utf-8")
    assert len(read_file_task(file, 1, None, None, denoiser).rows) == 1  # the other is not asked
    assert len(read_file_task(file, 2, 8, None, denoiser).rows) == 2
    with pytest.raises(UsageError, match=r"line 3 of .*task.jsonl has none"):
        read_file_task(file, 2, None, None, denoiser)


def test_the_command_writes_the_folder(tmp_path: Path) -> None:
    from dlm_eval.cli.app import app
    from typer.testing import CliRunner

    words = [
        "compare",
        "sudoku4x4",
        "--samplers",
        " llada, ancestral",
        "--nfe",
        "2, 4",
        "--task",
        "sudoku",
    ]
    words += ["-n", "2", "--out", str(tmp_path / "out"), "--clues", "8"]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert results["command"].startswith("dlm-sampling eval compare sudoku4x4 --samplers ' llada, ")
    assert results["protocol"]["clues"] == 8
    lines = (tmp_path / "out" / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["row"] for line in lines] == [0, 1] * 4
    with pytest.raises(UsageError, match="--nfe x"):
        CliRunner().invoke(app, [*words, "--nfe", "x"], catch_exceptions=False)


@pytest.mark.usefixtures("no_pictures")
def test_texts_are_judged_beside_references(tmp_path: Path) -> None:
    """Perplexity, entropy and MAUVE are those of the judge called directly on samples.jsonl."""
    from dlm_eval.cli.app import app
    from dlm_eval.data import passages
    from typer.testing import CliRunner

    out = tmp_path / "out"
    words = ["compare", "tiny-books", "--samplers", "ancestral", "--nfe", "2", "-n", "20",
             "--max-new-tokens", "8", "--prompts", "books", "--top-p", "0.9", "--crossing",
             "exclude", "--mauve-seeds", "1", "--out", str(out), "--quiet"]  # fmt: skip
    assert CliRunner().invoke(app, words, catch_exceptions=False).exit_code == 0
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    lines = (out / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    found = {(m["group"], m["name"]): m for m in results["metrics"]}
    judge, group = CausalJudge.from_pretrained("own"), "ancestral, 2 steps, top-p 0.9"
    texts_of = {group: [r["text"] for r in rows], "references": [r["reference"] for r in rows]}
    for name, texts in texts_of.items():
        direct = judge.score(texts)
        assert found[name, "generative perplexity"]["value"] == direct.perplexity()
        assert found[name, "unigram entropy"]["value"] == pytest.approx(
            np.mean([entropies([ids])[0] for ids in direct.ids])
        )
    assert sum(row["nll"] for row in rows) == pytest.approx(
        judge.score([r["text"] for r in rows]).nll.sum()
    )
    wanted = mauve(
        [r["text"] for r in rows], [r["reference"] for r in rows], featuriser=judge, seeds=(25,)
    )
    assert found[group, "MAUVE"]["value"] == pytest.approx(wanted.mean)
    assert results["protocol"]["judge_revision"] == judge.revision
    whole = passages(20, 48 + 4 * 8)
    assert [row["prompt"] + row["reference"] for row in rows] == whole
    assert results["subject"]["settings"][group]["crossing"] == "exclude"

    # The samples belong to no judge: another one reads them without a new pass.
    books = tmp_path / "a folder of books"
    books.mkdir()
    (books / "one.txt").write_text(whole[0] * 9, encoding="utf-8")
    before = (out / "journal" / "0.jsonl").read_bytes()
    again = CliRunner().invoke(app, [*words, "--judge", str(books)], catch_exceptions=False)
    assert again.exit_code == 0
    assert (out / "journal" / "0.jsonl").read_bytes() == before
    other = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert other["protocol"]["judge"].startswith("3-gram")
    assert other["protocol_hash"] != results["protocol_hash"]


def test_an_ngram_judge_counts_every_token(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("the door was open and the cat ran " * 9, encoding="utf-8")
    denoiser = AutoDenoiser.from_pretrained("tiny-books")
    judge = NGramTexts.fit_books(tmp_path, denoiser)
    scores = judge.score(["the cat ran", ""])
    assert scores.counts.tolist() == [len(scores.ids[0]), 0]
    assert scores.nll[0] == -judge.judge.log_probs(scores.ids[0]).sum()
    assert scores.nll[1] == 0.0
    with pytest.raises(UsageError, match=r"no \.txt"):
        NGramTexts.fit_books(tmp_path / "none", denoiser)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--prompts", "missing.txt"), "missing.txt"),
        (("--crossing", "both"), "include"),
        (("--judge", str(Path(__file__).parent)), "config.json"),
        (("--reference", "missing.txt"), "missing.txt"),
        (("--task", "sudoku", "--judge", "own"), "right answers"),
        (("--reduction", "word"), "corpus"),
        (("--clues", "4"), "^--clues: goes with --task sudoku"),
        (("--answer-pattern", "x"), "^--answer-pattern: goes with a task file"),
        (("--crossing", "include"), "^--crossing: goes with --top-p"),
        (("--judge", "none", "--features", "own"), "^--features: goes with a judge"),
        (("--judge", "none", "--reference", "books"), "^--reference: goes with a judge"),
        (("--judge-revision", "abc"), "--judge own is not"),
        (("--sweep", "fast-dllm.threshold=0.5"), "does not name fast-dllm"),
        (("--top-p", "3"), "^--top-p 3: must be in"),
        (("--block-length", "0"), "^No sampler ran. llada, 1 steps: block_length=0"),
        (("--task", "sudoku", "--max-new-tokens", "5"), "^--max-new-tokens: does not go"),
        (("--task", "sudoku", "--answer-pattern", "3"), "^--answer-pattern: does not go"),
        (("--task", "t.jsonl", "--reference", "books"), "^--reference: goes with --task text"),
        (("--task", "t.jsonl", "--features", "own"), "^--features: goes with --task text"),
        (("--task", "t.jsonl", "--clues", "3"), "^--clues: goes with --task sudoku"),
        (("--reference", "none", "--features", "own"), "--features own: there is no MAUVE"),
        (("--reference", "none", "--mauve-seeds", "3"), "^--mauve-seeds: goes with references"),
        (("--features", "none", "--mauve-seeds", "3"), "^--mauve-seeds: goes with MAUVE"),
        (("--reference", "books", "--reference-column", "a"), "^--reference-column: goes with a"),
    ],
)
def test_wrong_words_are_told_in_one_line(
    words: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    from dlm_eval.cli.app import app
    from typer.testing import CliRunner

    given = ["compare", "tiny-books", "--samplers", "llada", "--nfe", "1", "-n", "2"]
    with pytest.raises(UsageError, match=message) as told:
        CliRunner().invoke(app, [*given, "--out", str(tmp_path), *words], catch_exceptions=False)
    assert "\n" not in str(told.value)
    assert not list(tmp_path.rglob("*.jsonl"))  # the folder is free for the right words

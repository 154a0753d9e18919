"""The presets of eval compare: verdicts of claims by hand-made figures, and a small run of one."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dlm_eval.comparison.part import Part, Weights
from dlm_eval.comparison.presets import (
    PRESETS,
    Asked,
    Preset,
    claims,
    maps,
    published,
    run,
)
from dlm_eval.comparison.presets.differences import at_equal_nfe, difference, speed, verdict_of
from dlm_eval.comparison.presets.summary import (
    Correlations,
    Figure,
    PartFigures,
    Summary,
    load_summary,
    weights_at,
)
from dlm_eval.comparison.settings import Law, Setting
from dlm_eval.comparison.tasks import SudokuTask, book_task
from dlm_eval.report import read_folder
from dlm_eval.text.judging import JudgeOptions

from dlm_sampling.errors import UsageError
from dlm_sampling.jobs import Rank
from dlm_sampling.samplers import TokenFrequencies


def text(sampler: str, nfe: float, quality: float, entropy: float = 3.0) -> Figure:
    return Figure(
        label=f"{sampler}, {nfe:g}", sampler=sampler, steps=int(nfe), nfe=nfe, quality=quality,
        error=0.03, entropy=entropy, entropy_error=0.04,
    )  # fmt: skip


def grid(sampler: str, nfe: float, quality: float) -> Figure:
    label = f"{sampler}, {nfe:g}"
    return Figure(label=label, sampler=sampler, steps=None, nfe=nfe, quality=quality, error=0.01)


def part_of(*figures: Figure, judged: bool) -> PartFigures:
    return PartFigures(name="p", model="m", samples=128, judged=judged, protocol_hash="0",
                       references=None, figures=figures)  # fmt: skip


@pytest.mark.parametrize(
    ("quality", "entropy", "outcome"),
    [
        (-0.2, 3.0, "better"),
        (-0.2, 2.8, "less varied"),
        (-0.08, 2.8, "same"),  # 0.08 is below two standard errors, 2 * 0.03 * sqrt 2
        (0.2, 3.5, "worse"),
    ],
)
def test_a_lower_perplexity_counts_only_at_the_same_entropy(
    quality: float, entropy: float, outcome: str
) -> None:
    figures = text("a", 8, 4 + quality, entropy), text("b", 8, 4.0)
    gap = difference(part_of(*figures, judged=True), *figures)
    assert gap.outcome == outcome
    assert gap.error == pytest.approx(0.03 * math.sqrt(2))


def test_more_right_answers_are_better() -> None:
    pairs = [(grid("a", 4, q), grid("b", 4, 0.5)) for q in (0.6, 0.51, 0.4)]
    outcomes = [difference(part_of(*pair, judged=False), *pair).outcome for pair in pairs]
    assert outcomes == ["better", "same", "worse"]


def test_settings_with_the_same_rows_have_no_difference() -> None:
    """Their figures go together wholly; half of that halves the variance of the difference."""
    pair = grid("a", 4, 0.5), grid("b", 4, 0.5)
    for rho, error in ((1.0, 0.0), (0.5, 0.01), (0.0, 0.01 * math.sqrt(2))):
        joint = Correlations(((1.0,), (rho, 1.0)))
        gap = difference(replace(part_of(*pair, judged=False), correlations=joint), *pair)
        assert gap.error == pytest.approx(error) and gap.outcome == "same"


def test_a_baseline_is_linear_in_log_nfe() -> None:
    base = [grid("b", 4, 0.2), grid("b", 16, 0.6)]
    assert weights_at(base, 8) == {"b, 4": pytest.approx(0.5), "b, 16": pytest.approx(0.5)}
    assert weights_at(base, 40) == {"b, 16": 1.0}
    part = part_of(grid("b", 4, 0.2), grid("b", 16, 0.6), grid("a", 8, 0.5), grid("a", 64, 0.9),
                   judged=False)  # fmt: skip
    (gap,) = at_equal_nfe(part, "a", "b")  # NFE 64 is far beyond the baseline
    assert gap.quality == pytest.approx(0.1)
    assert gap.error == pytest.approx(0.01 * math.sqrt(1.5))


def test_verdicts() -> None:
    base = grid("b", 4, 0.5)
    better, same, worse = (
        difference(part_of(one, base, judged=False), one, base)
        for one in (grid("a", 4, q) for q in (0.6, 0.5, 0.4))
    )
    texts = text("a", 8, 3.0, 2.0), text("b", 8, 4.0)
    less = difference(part_of(*texts, judged=True), *texts)
    assert verdict_of([better, same]) == "holds"
    assert verdict_of([better, worse]) == "holds at some NFE"
    assert verdict_of([same]) == "undecided"
    assert verdict_of([same, worse]) == "does not hold"
    assert verdict_of([less, same]) == "only with less entropy"
    assert verdict_of([less, worse]) == "does not hold"


def test_the_speed_up_is_at_equal_quality() -> None:
    figures = [grid("b", 4, 0.5), grid("b", 8, 0.6), grid("b", 16, 0.9)]
    part = part_of(*figures, grid("a", 2, 0.5), grid("a", 5, 0.89), judged=False)
    assert speed(part, "a", "b") == (pytest.approx(16 / 5), 1.0)
    assert speed(part_of(*figures, grid("a", 5, 0.6), judged=False), "a", "b") is None
    texts = [text("b", 8, 4.2), text("b", 16, 4.0), text("a", 4, 4.0, 2.8), text("a", 8, 4.0)]
    varied = part_of(*texts, judged=True)  # 4 passes are as good, but less varied
    assert speed(varied, "a", "b") == (pytest.approx(2.0), 1.0)


def small(samples: int | None) -> tuple[Part, ...]:
    assert samples is None
    grids = Part("grids", Weights("sudoku4x4"), lambda _: SudokuTask(4, 8),
                 (Setting("llada", Law(0.0), 4),), 4)  # fmt: skip
    judge = JudgeOptions(features="none")
    texts = Part("texts", Weights("tiny-books"), lambda d: book_task(d, 20, 4),
                 tuple(Setting("ancestral", Law(1.0), steps) for steps in (2, 3)), 20,
                 judge=judge)  # fmt: skip
    return grids, texts


def test_a_preset_writes_summary_picture_and_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dlm_eval.cli.app import app
    from typer.testing import CliRunner

    monkeypatch.setitem(PRESETS, "small", Preset(small, lambda summary: summary.command))
    words = ["compare", "--preset", "small", "--out", str(tmp_path), "--quiet"]
    assert CliRunner().invoke(app, words, catch_exceptions=False).exit_code == 0
    summary = load_summary(tmp_path / "summary.json")
    grids, texts = summary.part("grids"), summary.part("texts")
    results = json.loads((tmp_path / "texts" / "results.json").read_text(encoding="utf-8"))
    values = {(m["group"], m["name"]): m["value"] for m in results["metrics"]}
    figure, other = texts.figures
    assert math.exp(figure.quality) == pytest.approx(
        values["ancestral, 2 steps, T 1", "generative perplexity"], rel=1e-5
    )
    perplexity = next(m for m in results["metrics"] if m["name"] == "generative perplexity")
    assert figure.error == pytest.approx(perplexity["error"] / perplexity["value"], rel=1e-5)
    lines = (tmp_path / "texts" / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]

    def terms(label: str) -> tuple[np.ndarray, np.ndarray]:
        own = [row for row in rows if row["group"] == label]
        nll, counts = (np.array([row[key] for row in own]) for key in ("nll", "counted tokens"))
        nats = (nll - nll.sum() / counts.sum() * counts) / counts.mean()
        return nats, np.array([row["entropy"] for row in own])

    gap = difference(texts, figure, other)
    pairs = zip(terms(figure.label), terms(other.label), strict=True)
    direct = [(a - b).std(ddof=1) / math.sqrt(20) for a, b in pairs]
    assert [gap.error, gap.entropy_error] == pytest.approx(direct, rel=1e-3)
    apart = difference(replace(texts, correlations=None), figure, other)
    assert apart.error == pytest.approx(math.hypot(figure.error, other.error))
    of_grids = json.loads((tmp_path / "grids" / "results.json").read_text(encoding="utf-8"))
    accuracy = next(m for m in of_grids["metrics"] if m["name"] == "accuracy")
    assert grids.figures[0].quality == pytest.approx(accuracy["value"] / 100, rel=1e-5)
    assert grids.figures[0].error == pytest.approx(accuracy["error"] / 100, rel=1e-5)
    assert texts.references is not None and texts.references.entropy == pytest.approx(
        values["references", "unigram entropy"], rel=1e-5
    )
    assert grids.figures[0].nfe == 4.0 and not grids.judged
    assert (tmp_path / "plots.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == summary.command
    whole = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    own = [{**m, "group": f"grids, {m['group']}"} for m in of_grids["metrics"]]
    own += [{**m, "group": f"texts, {m['group']}"} for m in results["metrics"]]
    assert whole["metrics"] == own and whole["command"] == summary.command
    kinds = f"grids ({grids.protocol_hash}, n = 4); texts ({texts.protocol_hash}, n = 20)"
    assert kinds in whole["warnings"][0]
    written = (tmp_path / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["text"] for line in written[4:]] == [row["text"] for row in rows]
    assert json.loads(written[0])["group"] == "grids, llada, 4 steps, T 0"
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "grids: Quality against NFE" in page and "41 more in samples.jsonl" in page
    (tmp_path / "empty").mkdir()
    wrong_words = {
        "claims": ["--preset", "claim"],
        "MODEL: does not go": ["--preset", "claims", "m"],
        "--nfe: does not go": ["--preset", "published", "m", "--nfe", "8,16,32,64"],
        "--samples: does not go": ["--preset", "orders", "--samples", "64"],
        "--seed: does not go": ["--preset", "uniform", "--seed", "1"],
        "empty: is a folder": ["--preset", "claims", "--page", str(tmp_path / "empty")],
        "--page goes with": ["m", "--samplers", "llada", "--page", "p.md"],
        "MODEL": [],
    }
    for message, wrong in wrong_words.items():
        given = ["compare", *wrong, "--out", str(tmp_path)]
        with pytest.raises(UsageError, match=message):
            CliRunner().invoke(app, given, catch_exceptions=False)


def test_the_plan_of_the_claims_can_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = TokenFrequencies(torch.ones(4096, dtype=torch.int64), 4096)
    monkeypatch.setattr(claims, "book_frequencies", lambda: counts)  # counting takes seconds
    plan = {part.name: part for part in claims.parts(None)}
    assert all(part.samples >= 128 for part in plan.values())
    steps = {s.steps for s in plan["text-remdm"].settings if s.sampler == "remdm-loop"}
    assert {32, 128, 512} <= steps  # 1x and 4x the tokens, and what comes to 4x in passes
    labels = [setting.label for part in plan.values() for setting in part.settings]
    assert all(labels.count(label) <= len(plan) for label in labels)
    for part in plan.values():
        assert len({s.label for s in part.settings}) == len(part.settings)


RESULTS = Path(__file__).parents[3] / "eval" / "results"
PAGES = {
    "claims": ("claims", "results/claims/README.md"),
    "lsd": ("lsd", "LSD.md"),
    "published": ("published", "results/published/README.md"),
    "samplers": ("samplers", "SAMPLERS.md"),
    "uniform": ("uniform", "UNIFORM.md"),
    "varied": ("varied", "results/varied/README.md"),
    "varied_smollm2": ("varied", "results/varied_smollm2/README.md"),
}
"""Preset and page of each folder of results."""


@pytest.mark.parametrize("folder", PAGES)
def test_the_page_is_that_of_the_committed_figures(folder: str) -> None:
    preset, page = PAGES[folder]
    rendered = PRESETS[preset].page(load_summary(RESULTS / folder / "summary.json"))
    assert (RESULTS.parent / page).read_text(encoding="utf-8") == rendered


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n, one in PRESETS.items() if isinstance(one, Preset)])
def test_the_committed_figures_are_those_that_the_command_measures(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = TokenFrequencies(torch.ones(4096, dtype=torch.int64), 4096)
    for module in (claims, maps):
        monkeypatch.setattr(module, "book_frequencies", lambda: counts)  # counting takes seconds
    preset, summary = PRESETS[name], load_summary(RESULTS / name / "summary.json")
    assert isinstance(preset, Preset)
    assert f"--preset {name}" in summary.command
    planned = {part.name: part for part in preset.parts(None)}
    assert [part.name for part in summary.parts] == list(planned)
    for part in summary.parts:
        plan = planned[part.name]
        labels = {figure.label for figure in part.figures}
        refused = {label for label in (s.label for s in plan.settings) if label not in labels}
        assert labels <= {setting.label for setting in plan.settings}
        assert refused == {reason.partition(": ")[0] for reason in part.refused}
        assert (part.samples, part.model) == (plan.samples, plan.weights.name)
    assert {part.samples for part in preset.parts(7)} == {7}


def test_coefficients_of_lsd_are_a_preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dlm_eval.cli.app import app
    from dlm_eval.lsd import learned
    from typer.testing import CliRunner

    asked: list[Path] = []
    committed = learned.read_result()
    toys = [r for r in committed["toy"]["records"] if r["base"] == "euler, uniform noise"]
    texts = committed["text"]["records"][:1]
    result = {
        "toy": {**committed["toy"], "records": toys},
        "text": {**committed["text"], "records": texts},
    }

    def measure_all(out: Path) -> dict[str, Any]:
        asked.append(out)
        return result

    monkeypatch.setattr(learned, "measure_all", measure_all)
    new = tmp_path / "new"
    words = ["compare", "--preset", "lsd-laws", "--out", str(new)]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.output == (f"{new}: written.\n{new}: results.json, samples.jsonl, report.html\n")
    assert asked == [new / "learned.json"]
    results = read_folder(new).results
    errors = {(m.group, m.name): m.value for m in results.metrics}
    assert errors == {
        (f"{r['base']}: {r['method']}", f"TV, toy {r['number']}"): r["tv"] for r in toys
    }
    assert {m.error for m in results.metrics} == {None}
    lines = (new / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["phi"] for line in lines] == [
        r["phi"] for part in result.values() for r in part["records"]
    ]
    page = (new / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/svg+xml") == 4
    with pytest.raises(UsageError, match="--preset lsd-laws writes none"):
        CliRunner().invoke(app, [*words, "--page", "p.md"], catch_exceptions=False)
    monkeypatch.setenv("DLM_SHARD", "1/2")
    assert "process 0" in CliRunner().invoke(app, words, catch_exceptions=False).output
    assert len(asked) == 1


def test_the_last_of_several_processes_finds_every_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process ends the first comparison while this one is at the second."""
    turns: list[str] = []

    def write_part(part: Part, *_: Any, **__: Any) -> str | None:
        turns.append(part.name)
        return None if turns == ["a"] else part.name

    monkeypatch.setattr(run, "write_part", write_part)
    monkeypatch.setattr(run, "write_report", lambda *_: None)
    figures = replace(part_of(judged=False), figures=())
    monkeypatch.setattr(run, "summarise", lambda name: replace(figures, name=name))
    parts = [Part(name, Weights("sudoku4x4"), lambda _: SudokuTask(2, 8), (), 2) for name in "ab"]
    given = (parts, lambda _: "", tmp_path, tmp_path / "README.md")
    assert run.run_preset(*given, Rank(1, 2), "c", picture=False)
    assert turns == ["a", "b", "a"]
    assert [part.name for part in load_summary(tmp_path / "summary.json").parts] == ["a", "b"]
    turns.clear()
    assert not run.run_preset(*given, Rank(), "c", picture=False)  # one process has no second turn


def published_parts(model: str, **counts: int) -> Part:
    asked = Asked(weights=Weights(model), judge=JudgeOptions(), **counts)
    return published.parts(asked)[0]


def test_the_published_table_is_planned_at_its_own_ratios() -> None:
    part = published_parts("m")
    assert part.samples == 5000
    steps = [setting.steps for setting in part.settings if setting.sampler == "ReMDM"]
    assert steps == [128, 256, 512, 1024, 2048, 4096]
    small = published_parts("m", samples=3, new_tokens=32).settings
    assert [s.steps for s in small if s.sampler == "MDLM"] == [4, 8, 16, 32, 64, 128]
    assert [s.steps for s in small if s.sampler == "MDLM+FB"] == [4, 8, 16, 32, 64, 128]
    rates = {s.steps: str(s.build()) for s in small if s.sampler == "ReMDM"}
    assert all("eta=0.04" in rates[steps] and "Cap(" in rates[steps] for steps in (4, 8, 16))
    assert all("eta=0.02, t_on=0.55, t_off=0.05" in rates[steps] for steps in (32, 64, 128))
    assert {(s.law.temperature, s.law.top_p) for s in small} == {(1.0, 0.9)}
    with pytest.raises(UsageError, match="multiple of 8"):
        published_parts("m", new_tokens=36)
    uniform = published_parts("tiny-books-uniform", new_tokens=32)
    with pytest.raises(UsageError, match="uniform noise"):
        uniform.task(uniform.weights.load(Rank()))


def test_published_figures_stand_beside_those_of_the_run() -> None:
    figures = tuple(
        text("ReMDM", steps, math.log(perplexity))
        for steps, perplexity in ((8, 40.0), (64, 20.0), (256, 10.0))
    )
    summary = Summary(command="c", versions={}, parts=(part_of(*figures, judged=True),))
    rows = [line for line in published.render(summary).splitlines() if line.startswith("| ReMDM |")]
    here = "| ReMDM | 1/8 | 8 | 8.0 | 40.0 ± 1.2 | 3.000 ± 0.040 |  "
    assert rows[0] == f"{here}| 128 | 42.5 | 5.43 | 0.057 |"
    assert rows[1] == "| ReMDM | 1/4 |  |  |  |  |  | 256 | 30.5 | 5.34 | 0.216 |"
    assert rows[5].endswith("| 4096 | 17.6 | 5.20 | 0.656 |") and rows[5].startswith(
        "| ReMDM | 4 |"
    )
    (course,) = [line for line in published.render(summary).splitlines() if "from T = L" in line]
    assert "here ln ppl -0.693" in course
    assert "published ln ppl -0.486, MAUVE 0.403 to 0.656" in course


def test_a_summary_finds_its_parts() -> None:
    summary = Summary(command="c", versions={}, parts=(part_of(judged=False),))
    assert summary.part("p").samples == 128

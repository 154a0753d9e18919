"""The command, the figure and the page of the orders of convergence."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from dlm_eval.convergence import figure, orders, report
from dlm_eval.convergence.figure import STYLES, fingerprint, plot
from dlm_eval.convergence.page import render
from dlm_eval.journal import Journal, SettingsChanged
from dlm_eval.report import read_folder
from dlm_eval.report.plots import INK
from matplotlib.figure import Figure
from typer.testing import CliRunner

from dlm_sampling.errors import UsageError

ROOT = Path(__file__).resolve().parents[3]
FILE = ROOT / "eval/results/orders.json"
RESULT: dict[str, Any] = json.loads(FILE.read_text())


@pytest.fixture
def command() -> Any:
    app = orders.typer.Typer()
    app.command()(orders.main)
    return app


def test_the_committed_page_and_figure_are_those_of_the_committed_result() -> None:
    assert (ROOT / "eval/ORDERS.md").read_text() == render(RESULT)
    assert fingerprint(RESULT).encode() in (ROOT / "eval/results/orders.png").read_bytes()
    assert FILE.read_text() == orders.as_text(RESULT)


def test_the_figure_shows_the_errors_of_the_file() -> None:
    whole = plot(RESULT)
    for ax, part in zip(whole.axes, RESULT["experiments"], strict=False):
        assert part["title"] in ax.get_title(loc="left")
        drawn = [list(line.get_ydata()) for line in ax.lines]
        rows = {row["method"]: row for row in part["records"]}
        assert rows["theta-trapezoidal"]["tv"] in drawn
        assert rows["euler"]["tv"] in drawn
        for row in part["records"]:
            assert not row["wrong"] or row["tv"] in drawn
    token = {row["method"]: row for row in RESULT["experiments"][1]["records"]}
    assert token["theta-rk-2"]["kl"] in [list(line.get_ydata()) for line in whole.axes[6].lines]
    entries = [text.get_text() for text in whole.axes[7].get_legend().get_texts()]
    assert {style.label for style in STYLES.values()} <= set(entries)


def test_another_result_has_another_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = json.loads(FILE.read_text())
    changed["experiments"][0]["records"][0]["tv"][0] *= 1 + 1e-12
    assert fingerprint(changed) != fingerprint(RESULT)
    monkeypatch.setattr(figure, "plot", lambda _: Figure())  # drawing all of it takes seconds
    assert fingerprint(changed).encode() in figure.draw(changed)


def test_one_command_writes_all_three(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Any
) -> None:
    asked: list[tuple[int, int]] = []

    def measure(samples: int, seed: int, command: str) -> dict[str, Any]:
        asked.append((samples, seed))
        assert command.endswith(f" --samples {samples} --seed {seed}")
        return RESULT

    monkeypatch.setattr(orders, "measure", measure)
    paths = {name: tmp_path / "new" / name for name in ("out", "figure", "page")}
    options = [text for name, path in paths.items() for text in (f"--{name}", str(path))]
    done = CliRunner().invoke(command, [*options, "--samples", "123456", "--seed", "7"])
    assert done.exit_code == 0, done.output
    assert asked == [(123456, 7)]
    assert paths["out"].read_bytes() == FILE.read_bytes()
    assert paths["figure"].read_bytes().startswith(b"\x89PNG")
    links = {"orders.json": "out", "orders.png": "figure"}
    assert paths["page"].read_text() == render(RESULT, links)


def test_the_preset_writes_the_committed_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dlm_eval.cli.app import app

    def measure(samples: int, seed: int, command: str, journal: Journal) -> dict[str, Any]:
        assert (samples, seed) == (200_000, 0)  # those of the committed result
        assert journal.path == tmp_path / "orders.jsonl"
        return {**RESULT, "command": command}

    monkeypatch.setattr(orders, "measure", measure)
    monkeypatch.setattr(figure, "plot", lambda _: Figure())  # drawing all of it takes seconds
    monkeypatch.setattr(report, "SIZE", (1.0, 1.0))
    inks: list[str] = []

    def paint(drawn: Figure, result: dict[str, Any]) -> None:
        inks.append(figure._ink(figure.BLACK))

    monkeypatch.setattr(report, "paint", paint)
    words = ["compare", "--preset", "orders", "--out", str(tmp_path), "--quiet"]
    assert CliRunner().invoke(app, words, catch_exceptions=False).exit_code == 0
    own = {**RESULT, "command": f"dlm-sampling eval compare --out {tmp_path} --preset orders "
           "--quiet"}  # fmt: skip
    assert (tmp_path / "orders.json").read_text() == orders.as_text(own)
    names = {name: name for name in ("orders.json", "orders.png")}
    assert (tmp_path / "README.md").read_text() == render(own, names)
    assert inks == [INK["light"], INK["dark"]]  # of the report, which has every chain
    assert "Error against NFE" in (tmp_path / "report.html").read_text()
    results = read_folder(tmp_path).results
    values = {(m.group, m.name): (m.value, m.n, m.error) for m in results.metrics}
    euler = next(
        r for r in own["experiments"][3]["records"] if r["method"] == "euler of the posterior"
    )
    group = "pair: wrong: euler of the posterior"
    assert values[group, "slope of TV"] == (euler["slope_tv"], 0, None)
    assert values[group, "KL at the largest NFE"] == (euler["kl"][-1], 0, None)
    sampled = own["sampled"]["records"][0]
    group = f"token, sampled: {sampled['method']}, {sampled['intervals']} intervals"
    assert values[group, "KL"] == (sampled["kl"], 200_000, None)
    samples = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert [s["tv"] for s in samples if "tv" in s] == [
        tv for part in own["experiments"] for r in part["records"] for tv in r["tv"]
    ]
    assert [s["counts"] for s in samples if "counts" in s] == [
        r["counts"] for r in own["sampled"]["records"]
    ]
    for more in (["--samples", "5"], ["m"]):
        with pytest.raises(UsageError, match="does not go with"):
            CliRunner().invoke(app, [*words, *more], catch_exceptions=False)
    (tmp_path / "orders.jsonl").write_text('{"samples": 1}\n')
    with pytest.raises(SettingsChanged, match="samples was 1"):
        CliRunner().invoke(app, words, catch_exceptions=False)


def test_a_killed_run_measures_no_solver_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = {name: one for name, one in orders.experiments().items() if name in ("token", "pair")}
    every = [(name, solver) for name, one in plan.items() for solver in one.pairings()]
    monkeypatch.setattr(orders, "experiments", lambda: plan)
    monkeypatch.setattr(orders, "identities", list)
    monkeypatch.setattr(orders, "sample_all", lambda *_: {})
    asked: list[tuple[str, str]] = []

    def record(experiment: Any, solver: str) -> dict[str, str]:
        if len(asked) == 3:
            asked.append(("killed", ""))
            raise KeyboardInterrupt
        asked.append((experiment.name, solver))
        return {"method": solver}

    monkeypatch.setattr(orders, "record", record)
    with pytest.raises(KeyboardInterrupt):
        orders.measure(1, 0, "c", Journal(tmp_path / "j.jsonl", {}))
    found = orders.measure(1, 0, "c", Journal(tmp_path / "j.jsonl", {}))
    assert [one for one in asked if one[1]] == every
    solvers = [[row["method"] for row in part["records"]] for part in found["experiments"]]
    assert solvers == [list(one.pairings()) for one in plan.values()]


def test_without_matplotlib_the_command_says_so_before_it_measures(
    monkeypatch: pytest.MonkeyPatch, command: Any
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(orders, "measure", lambda *_: pytest.fail("measured"))
    done = CliRunner().invoke(command, [])
    assert done.exit_code == 1
    assert "matplotlib" in done.output and ".[eval]" in done.output


def test_too_few_samples_are_refused(command: Any) -> None:
    done = CliRunner().invoke(command, ["--samples", "10"])
    assert done.exit_code == 2
    assert "100000" in done.output

"""The comparison on the model of uniform noise: it resumes, names what it refused, adds up."""

import json
from pathlib import Path

import numpy as np
import pytest
from dlm_eval.comparison import uniform as compare_uniform
from typer.testing import CliRunner

BOOKS = {"learnt": "the cat sat on the mat. ", "held": "a dog ran to the old hill. "}


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(compare_uniform, "NEW_TOKENS", 6)
    for name, text in {**BOOKS, "judged": "the dog sat. a cat ran to the mat. "}.items():
        (tmp_path / f"{name}.txt").write_text(text * 40)
    split = tmp_path / "split.py"
    split.write_text("TRAIN_BOOKS = ('learnt',)\nHELD_OUT_BOOKS = ('held',)\n")
    app = compare_uniform.typer.Typer()
    app.command()(compare_uniform.main)
    out, page = tmp_path / "results" / "uniform.json", tmp_path / "UNIFORM.md"

    def call(*only: str):
        options = ["--books", tmp_path, "--split", split, "--out", out, "--page", page]
        options += ["--samples", 2, "--steps", 2, "--steps", 32, "--workers", 1]
        options += [word for name in only for word in ("--only", name)]
        done = CliRunner().invoke(app, [str(word) for word in options])
        assert done.exit_code == 0, done.output
        return json.loads(out.read_text()), page.read_text()

    return call


def test_a_second_run_measures_only_what_is_new(run):
    first, _ = run("euler")
    second, page = run("ancestral", "euler")
    kept = [r for r in second["records"] if r["sampler"] == "euler"]
    assert kept == first["records"]  # times included: nothing was measured twice
    assert [r["nfe"] for r in kept] == [3.0, 33.0]
    base = next(r for r in second["records"] if r["sampler"] == "ancestral" and r["steps"] == 32)
    gap = np.subtract(kept[1]["nats"], base["nats"])
    row = next(line for line in page.splitlines() if line.startswith("| euler "))
    assert f"{gap.mean():+.2f} ± {gap.std(ddof=1) / 2**0.5:.2f}" in row
    assert f"{np.mean(kept[0]['nats']):.2f} (3) | {np.mean(kept[1]['nats']):.2f} (33)" in row


def test_every_row_of_the_table_has_every_column(run):
    result, page = run("ancestral", "glauber")
    table = [line for line in page.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1
    assert len(table) == 2 + 2
    assert {r["law"] for r in result["records"]} == {"plain"}


def test_the_page_is_made_of_the_committed_file():
    root = Path(__file__).resolve().parents[3]
    result = json.loads((root / "eval" / "results" / "uniform.json").read_text(encoding="utf-8"))
    page = (root / "eval" / "UNIFORM.md").read_text(encoding="utf-8")
    assert page == compare_uniform.render(result)


def test_a_sampler_that_the_model_cannot_serve_is_named(run):
    record = {"sampler": "fs-dfm", "steps": 2, "refused": "needs a network that takes dt"}
    result, _ = run("ancestral")
    page = compare_uniform.render({**result, "records": [*result["records"], record]})
    assert "- fs-dfm: needs a network that takes dt" in page

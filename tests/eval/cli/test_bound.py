"""The command `eval bound`: its folder, its errors, and a second call that computes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from dlm_eval.cli.app import app
from dlm_eval.likelihood import run
from dlm_eval.report import compare_folders
from dlm_eval.report.page import table
from typer.testing import CliRunner

from dlm_sampling.errors import UsageError


def test_results_and_resumption(
    tiny_llada: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "pairs.jsonl"
    rows = [{"prompt": "Once upon", "answer": " a time"}, {"prompt": "a", "answer": " b c"}]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    out = tmp_path / "out"
    words = ["bound", str(tiny_llada), "--data", str(data), "--out", str(out)]
    words += ["--protocol", "llada", "--masks", "4"]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert "negative log-likelihood: estimate of an upper bound: " in done.stdout
    assert [line.endswith(", n = 2") for line in done.stdout.splitlines()] == [True] * 3
    assert done.stderr.splitlines()[-1] == f"{out}: results.json, samples.jsonl, report.html"
    first = json.loads((out / "results.json").read_text(encoding="utf-8"))
    names = [(metric["name"], metric["group"]) for metric in first["metrics"]]
    assert names[:3] == [
        ("negative log-likelihood", ""),
        ("bits per character", ""),
        ("perplexity", ""),
    ]
    assert {group for _, group in names} == {"", "1", "2"}
    assert first["protocol"]["scheme"] == "stratified" and first["protocol"]["masks"] == 4
    assert first["subject"]["nfe"] == 8

    def never(*_: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(run, "nats_of", never)
    CliRunner().invoke(app, words, catch_exceptions=False)
    again = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert again["metrics"] == first["metrics"]


@pytest.mark.slow
def test_bits_per_character_of_two_tokenizers_are_comparable(
    tiny_llada: Path, tmp_path: Path
) -> None:
    """Figures per token are not, and stand in columns of their own."""
    data = tmp_path / "texts.jsonl"
    rows = [{"text": "once upon a time there was"}, {"text": "a cat"}]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    for model, name in ((str(tiny_llada), "letters"), ("tiny-books", "words")):
        words = ["bound", model, "--data", str(data), "--out", str(tmp_path / name)]
        words += ["--length", "16", "--masks", "2", "--dtype", "float32"]
        CliRunner().invoke(app, words, catch_exceptions=False)
    folders = [tmp_path / "letters", tmp_path / "words"]
    joined, found = compare_folders(folders)
    assert found == ()
    whole = [m for m in joined.metrics if m.group in ("letters", "words")]
    assert {m.n for m in whole if m.name == "bits per character"} == {2}
    assert {m.n for m in whole if m.name == "perplexity"} == {2, 3}  # windows of 16 letters
    columns, _ = table(joined.metrics)
    names = [column.name for column in columns]
    assert [names.count(name) for name in ("bits per character", "perplexity")] == [1, 2]
    assert len({column.unit for column in columns}) == 5  # those per token name their tokens
    # Where a tokenizer decides what is dropped, the texts are not the same.
    for model, folder in ((str(tiny_llada), folders[0]), ("tiny-books", folders[1])):
        words = ["bound", model, "--data", str(data), "--out", str(folder / "mdlm")]
        words += ["--length", "8", "--protocol", "mdlm"]
        CliRunner().invoke(app, words, catch_exceptions=False)
    _, found = compare_folders([folder / "mdlm" for folder in folders], mixed=True)
    assert any("tokens is" in sentence for sentence in found)


def test_rows_without_a_token_are_named(tiny_llada: Path, tmp_path: Path) -> None:
    data, out = tmp_path / "pairs.jsonl", tmp_path / "out"
    rows = [
        {"id": "gone", "prompt": "a", "answer": ""},
        {"prompt": "Once upon a ti", "answer": "me"},
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    words = ["bound", str(tiny_llada), "--data", str(data), "--out", str(out)]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert "Warning: 1 of 2 rows have no token to score or are blank (gone)." in done.stderr
    assert " ± " not in done.stdout and done.stdout.count(", n = 1 (one text has no") == 3
    figures = json.loads((out / "results.json").read_text(encoding="utf-8"))["metrics"]
    assert [(metric["n"], metric["error"]) for metric in figures] == [(1, None)] * 6
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "a figure of one sample (n = 1) has none" in page
    assert "; its masks alone, from groups drawn independently, would give" in page
    wrong = {
        "--log-type btf: --protocol mdlm": ["--log-type", "btf", "--protocol", "mdlm"],
        "--masks 3: --scheme enumerate": ["--masks", "3", "--scheme", "enumerate"],
        "--steps 5: goes with models of uniform noise": ["--steps", "5"],
    }
    for why, options in wrong.items():
        with pytest.raises(UsageError, match=why):
            CliRunner().invoke(app, [*words, *options], catch_exceptions=False)
    data.write_text('{"text": "[MASK]"}\n', encoding="utf-8")
    with pytest.raises(UsageError, match="goes with pairs"):
        CliRunner().invoke(app, [*words, "--log-type", "ftb"], catch_exceptions=False)
    words[1] = "sudoku4x4"
    with pytest.raises(UsageError, match="'1': the tokenizer of sudoku4x4 has no tokens"):
        CliRunner().invoke(app, words, catch_exceptions=False)


def test_wrong_arguments_are_named(tmp_path: Path) -> None:
    data = tmp_path / "text.txt"
    data.write_text("", encoding="utf-8")
    for why, options in {
        "--protocol='llama'": ["--protocol", "llama"],
        "--masks 0": ["--masks", "0"],
        "no text in it": [],
    }.items():
        words = ["bound", "tiny-books", "--data", str(data), "--out", str(tmp_path / "out")]
        with pytest.raises(UsageError, match=why):
            CliRunner().invoke(app, [*words, *options], catch_exceptions=False)

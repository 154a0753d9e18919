"""The command `eval text`: what it writes, that it resumes, and wrong usage in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import command as command
from tests.cli.process import Command, assert_one_line

FEW = ("-n", "20", "--max-new-tokens", "12", "--steps", "4", "--mauve-seeds", "2")


def results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def test_texts_of_a_model(command: Command, tmp_path: Path) -> None:
    runs = []
    for sampler in ("llada", "ancestral"):
        out = tmp_path / sampler
        words = ("eval", "text", "tiny-books", "--sampler", sampler, *FEW, "--out", str(out))
        shown = command(*words)
        assert shown.code == 0, shown.err
        runs.append(found := results(out))
        assert {p.name for p in out.iterdir()} >= {"results.json", "samples.jsonl", "report.html"}
        assert found["subject"]["sampler"].lower().startswith(sampler)
        values = {m["name"]: m["value"] for m in found["metrics"] if not m["group"]}
        assert {"generative perplexity", "unigram entropy", "MAUVE", "NFE"} <= set(values)
        assert f"generative perplexity: {values['generative perplexity']:.4g}" in shown.out
        assert f"unigram entropy: {values['unigram entropy']:.4g}" in shown.out
        assert sorted(found["command"].replace("--samples", "-n").split()) == sorted(
            ("dlm-sampling", *words)
        )
    greedy, ancestral = runs
    assert greedy["protocol_hash"] == ancestral["protocol_hash"]
    assert any("19 of 20 texts are copies" in warning for warning in greedy["warnings"])
    assert not any("copies" in warning for warning in ancestral["warnings"])
    assert any("features are those of 'own'" in warning for warning in ancestral["warnings"])
    mauve = next(m for m in ancestral["metrics"] if m["name"] == "MAUVE")
    assert mauve["note"].startswith("features of own; ")

    # The same command resumes: nothing is generated again, and the figures are the same.
    parts = sorted((tmp_path / "ancestral" / "samples" / "data").iterdir())
    times = [part.stat().st_mtime_ns for part in parts]
    assert command(*words).code == 0
    assert [part.stat().st_mtime_ns for part in parts] == times
    assert results(out) == ancestral
    other = command(*words, "--seed", "1")
    assert (other.code, len(other.err.splitlines())) == (4, 1)
    assert "another folder" in other.err and "--output" not in other.err  # here it is --out

    # Another judgement of the same texts is another protocol.
    texts = str(out / "samples.jsonl")
    read = command("eval", "text", "--texts", texts, "--reduction", "text", "--reference", "none",
                   "--out", str(tmp_path / "read"))  # fmt: skip
    assert read.code == 0, read.err
    again = results(tmp_path / "read")
    assert again["protocol_hash"] != ancestral["protocol_hash"]
    entropy = [
        next(m["value"] for m in found["metrics"] if m["name"] == "unigram entropy")
        for found in (again, ancestral)
    ]
    assert entropy[0] == entropy[1]


def test_processes_of_a_launcher_give_the_samples_of_one(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As torchrun and accelerate launch set the environment; the first process scores."""
    words = ("eval", "text", "sudoku4x4", "-n", "4", "--max-new-tokens", "15", "--batch-size", "2")
    words = (*words, "--reference", "none", "--out")
    assert command(*words, str(tmp_path / "one")).code == 0
    for name, value in (("RANK", "1"), ("LOCAL_RANK", "1"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    other = command(*words, str(tmp_path / "two"))
    assert (other.code, "share of process 1 is done" in other.out) == (0, True)
    assert not (tmp_path / "two" / "results.json").exists()
    monkeypatch.setenv("RANK", "0")
    assert command(*words, str(tmp_path / "two")).code == 0
    one, two = (tmp_path / name / "samples.jsonl" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    assert results(tmp_path / "two")["metrics"] == results(tmp_path / "one")["metrics"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "Give a MODEL that generates, or --texts FILE"),
        (("tiny-books", "--texts", "a.txt"), "Give a MODEL that generates, or --texts FILE"),
        (("tiny-books",), "--out: name the folder"),
        (("tiny-bucks", "--out", "{tmp}/a"), "Did you mean 'tiny-books'"),
        (("--texts", "gone.jsonl", "--out", "{tmp}/a"), "--texts gone.jsonl: there is no such"),
        (("--texts", "{tmp}", "--out", "{tmp}/a"), "the folder is empty"),
        (("tiny-books", "--prompts", "no.txt", "--out", "{tmp}/a"), "--prompts no.txt: No such"),
        (("--texts", "{tmp}/l.jsonl", "--out", "{tmp}/a"), "l.jsonl, line 2 has no column 'text'"),
        (
            ("tiny-books", "--prompts", "{tmp}/l.jsonl", "--out", "{tmp}/a"),
            "l.jsonl, line 2: ",
        ),
        (("tiny-books", "--judge", "{tmp}", "--out", "{tmp}/a"), "holds no config.json"),
        (("tiny-books", "--reduction", "mean", "--out", "{tmp}/a"), "must be one of corpus, text"),
        (("tiny-books", "--set", "a=1", "--out", "{tmp}/a"), "--set goes with --sampler"),
        (("tiny-books", "--sampler", "lada", "--out", "{tmp}/a"), "Did you mean 'llada'"),
        (("tiny-books", "-n", "5000", "--out", "{tmp}/a"), "the held-out books hold"),
        (("tiny-books", "--judge-revision", "a", "--out", "{tmp}/a"), "--judge own is not"),
        (("--texts", "{tmp}/two.txt", "-n", "3", "--out", "{tmp}/a"), "--samples 3: --texts"),
        (
            ("tiny-books", "--reference", "none", "--mauve-seeds", "2", "--out", "{tmp}/a"),
            "--mauve-seeds: goes with references",
        ),
    ],
)
def test_wrong_usage_is_one_line(
    command: Command, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    if "{tmp}/l.jsonl" in words:  # a word is misspelt on the second line alone
        lines = '{"text": "a", "prompt": "a"}\n{"txt": "b", "promt": "b"}\n'
        (tmp_path / "l.jsonl").write_text(lines, encoding="utf-8")
    if "{tmp}/two.txt" in words:
        (tmp_path / "two.txt").write_text("the door\nthe cat\n", encoding="utf-8")
    shown = command("eval", "text", *(word.replace("{tmp}", str(tmp_path)) for word in words))
    assert (shown.code, len(shown.err.splitlines())) == (2, 1), shown.err
    assert message in shown.err


def test_few_texts_are_judged_without_mauve(command: Command, tmp_path: Path) -> None:
    texts = tmp_path / "texts.jsonl"
    texts.write_text('{"text": "Dorothy sat down."}\n' * 2, encoding="utf-8")
    words = ("eval", "text", "--texts", str(texts), "--out", str(tmp_path / "out"))
    assert command(*words).code == 0
    found = results(tmp_path / "out")
    assert "MAUVE" not in {m["name"] for m in found["metrics"]}
    left_out = "MAUVE is left out, as it needs at least 20 texts"
    assert any(warning.startswith(left_out) for warning in found["warnings"])
    asked = command(*words, "--features", "own")
    assert_one_line(asked, 2, "--features own", "at least 20 texts")

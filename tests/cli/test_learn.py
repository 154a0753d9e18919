"""The verb `learn`: a file that `generate --sampler` takes, and what is wrong in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.process import Command

SHORT = ("--steps", "4", "--teacher-steps", "8", "--rows", "2", "--rounds", "1", "--length", "8")


def test_a_learned_file_generates(command: Command, tiny_llada: Path, tmp_path: Path) -> None:
    tiny, out = str(tiny_llada), tmp_path / "lsd.json"
    options = ("--base", "tau-leaping", "--schedule", "HalfCosine", "--times", "--out", str(out))
    result = command("learn", tiny, *SHORT, *options)
    assert result.code == 0, result.err
    assert result.out == ""
    assert result.err.splitlines()[-1].startswith(f"{out}: tau-leaping, 4 steps, coefficients ")
    record = json.loads(out.read_text())
    assert (record["format"], record["base"], record["steps"]) == ("lsd.v1", "tau-leaping", 4)
    assert record["schedule"]["name"] == "HalfCosine"
    assert record["learning"]["times"] is True
    assert record["model"]["name"] == tiny
    assert list(tmp_path.iterdir()) == [out]
    words = ("generate", "Once", "--model", tiny, "--sampler", str(out), "--max-new-tokens", "12")
    text = command(*words)
    assert text.code == 0, text.err
    assert text.err.startswith(f"{out}, seed 0, ")
    assert command(*words, "--steps", "4").out == text.out
    wrong = command(*words, "--steps", "5")
    assert (wrong.code, len(wrong.err.splitlines())) == (2, 1)
    assert "learnt for 4" in wrong.err
    wrong = command(*words, "--set", "phi=1")
    assert (wrong.code, len(wrong.err.splitlines())) == (2, 1)
    assert "has no parameter 'phi'" in wrong.err


def test_the_same_command_writes_the_same_bytes(
    command: Command, tiny_llada: Path, tmp_path: Path
) -> None:
    for name in ("a.json", "b.json"):
        command("learn", str(tiny_llada), *SHORT, "-q", "--out", str(tmp_path / name))
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--out", "x.txt"), 2, "must end in .json"),
        (("--out", "none/x.json"), 2, "there is no folder none"),
        (("--base", "heun"), 2, "--base='heun'"),
        (("--schedule", "Linear"), 2, "--schedule='Linear'"),
        (("--teacher-steps", "7"), 2, "multiple of steps=4"),
        (("--fit", "adam"), 2, "closed, gradient"),
    ],
)
def test_what_is_wrong_is_one_line(
    words, code, message, command, tiny_llada: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = ("--out", "x.json", *words)
    result = command("learn", str(tiny_llada), *SHORT, *given)
    assert result.code == code, result
    assert len(result.err.splitlines()) == 1
    assert message in result.err
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_not_there_is_named(command: Command, tmp_path: Path) -> None:
    result = command("generate", "Once", "--sampler", str(tmp_path / "none.json"))
    assert result.code == 2
    assert "dlm-sampling learn" in result.err

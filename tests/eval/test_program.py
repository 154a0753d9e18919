"""Every module that is run by `python -m`: a wrong path is one line and exit code 2."""

from __future__ import annotations

import ast
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import dlm_eval
import pytest

PACKAGE = Path(dlm_eval.__file__).parent
WRONG: dict[str, list[list[str]]] = {
    "dlm_eval": [
        ["text", "--texts", "./MISSING", "--out", "NEW"],
        ["text", "--texts", "MISSING.jsonl", "--out", "NEW"],
        ["text", "--texts", "EMPTY", "--out", "NEW"],
        ["text", "./MISSING", "--out", "NEW"],
        ["text", "EMPTY", "--out", "NEW"],
        ["bound", "tiny-books", "--data", "./MISSING", "--out", "NEW"],
        ["bound", "tiny-books", "--data", "EMPTY", "--out", "NEW"],
        ["bound", "EMPTY", "--data", "books", "--out", "NEW"],
        ["cache", "EMPTY", "--out", "NEW"],
        ["cache", "tiny-books", "--prompts", "./MISSING", "--out", "NEW"],
        ["compare", "EMPTY", "--samplers", "llada", "--out", "NEW"],
        ["compare", "tiny-books", "--samplers", "llada", "--task", "MISSING.jsonl", "--out", "NEW"],
        ["compare", "tiny-books", "--samplers", "llada", "--task", "EMPTY", "--out", "NEW"],
        ["compare", "tiny-books", "--samplers", "llada", "--out", "FILE"],
        ["compare", "EMPTY", "--preset", "varied", "--out", "NEW"],
        ["compare", "--preset", "orders", "--out", "FILE"],
        ["compare", "--preset", "lsd-laws", "--out", "FILE/x"],
        ["show", "EMPTY", "./MISSING"],
        ["show", "FILE", "EMPTY", "--out", "NEW"],
        ["text", "tiny-books", "--reference", "EMPTY", "--out", "NEW"],
        ["text", "tiny-books", "--judge", "EMPTY", "--out", "NEW"],
        ["text", "tiny-books", "--features", "EMPTY", "--out", "NEW"],
        ["text", "tiny-books", "--prompts", "EMPTY", "--out", "NEW"],
        ["tasks", "sudoku4x4", "--tasks", "sudoku4x4", "--data", "EMPTY", "--out", "NEW"],
        ["tasks", "EMPTY", "--tasks", "sudoku4x4", "--out", "NEW"],
        ["tasks", "sudoku4x4", "--tasks", "MISSING", "--out", "NEW"],
        ["tasks", "sudoku4x4", "--tasks", "sudoku4x4", "--out", "FILE"],
    ],
    "dlm_eval.caches.speed": [["--out", "EMPTY"], ["--out", "FILE/x.json"]],
    "dlm_eval.control.json_text": [["--out", "EMPTY"], ["--out", "FILE/x.json"]],
    "dlm_eval.control.run": [["--out", "EMPTY"], ["--page", "FILE/x.md"]],
    "dlm_eval.convergence.orders": [["--out", "EMPTY"], ["--page", "FILE/x.md"]],
    "dlm_eval.external.antiberty": [["EMPTY"], ["FILE"]],
    "dlm_eval.external.measure": [["--out", "EMPTY"], ["--out", "FILE/x.json"]],
    "dlm_eval.external.smollm2": [["EMPTY"], ["FILE"]],
    "dlm_eval.import_time": [["MISSING"]],
    "dlm_eval.judges.bound": [
        ["--out", "EMPTY"],
        ["--books", "EMPTY", "--out", "NEW/x.json"],
        ["--books", "MISSING", "--out", "NEW/x.json"],
        ["--model", "./MISSING", "--out", "NEW/x.json"],
        ["--model", "EMPTY", "--out", "NEW/x.json"],
    ],
    "dlm_eval.judges.ngram": [
        ["--books", "EMPTY", "--tokenizer", "TOKENIZER", "--out", "NEW/x.json"],
        ["--books", "EMPTY", "--tokenizer", "EMPTY", "--out", "NEW/x.json"],
        ["--books", "EMPTY", "--tokenizer", "TOKENIZER", "--split", "MISSING", "--out", "NEW/x"],
    ],
    "dlm_eval.kill_storm": [["--out", "EMPTY"], ["--out", "FILE/x.json"]],
    "dlm_eval.likelihood.estimators": [["--out", "EMPTY"], ["--out", "FILE/x.json"]],
    "dlm_eval.likelihood.updates": [["--out", "EMPTY"], ["--out", "FILE/x.json"]],
    "dlm_eval.lsd.learned": [["--out", "EMPTY"], ["--parts", "none", "--out", "NEW/x.json"]],
    "dlm_eval.robustness.fuzz": [["--out", "EMPTY"], ["--out", "FILE/x.json"]],
    "dlm_eval.robustness.mutants": [["--out", "EMPTY"], ["MISSING", "--out", "NEW/x.json"]],
    "dlm_eval.speed": [["--out", "EMPTY"], ["--out", "FILE/x.json"]],
    "dlm_eval.tasks.harness": [],  # tried below, in a process of its own
}
"""Wrong words by module; upper-case names stand for paths."""


def is_program(file: Path) -> bool:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    guarded = any(
        isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"
        for node in tree.body
    )
    return guarded or file.name == "__main__.py"


def test_every_program_is_tried() -> None:
    found: set[str] = set()
    for file in PACKAGE.rglob("*.py"):
        if is_program(file):
            parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
            found.add(".".join(parts).removesuffix(".__main__"))
    assert found == set(WRONG)


RESULTS = PACKAGE.parent / "results"


@pytest.mark.parametrize("file", sorted(RESULTS.glob("*.json")), ids=lambda file: file.stem)
def test_a_result_says_by_which_command(file: Path) -> None:
    content = json.loads(file.read_text(encoding="utf-8"))
    for part in [content] if "command" in content else content.values():
        program = part["command"].split()
        if program[:2] == ["python", "-m"]:
            assert program[2] in WRONG
        elif program[0] == "python":
            assert (RESULTS.parents[1] / program[1]).is_file()
        else:
            assert program[0] == "dlm-sampling"


CASES = [(module, words) for module, several in WRONG.items() for words in several]


@pytest.mark.parametrize(("module", "words"), CASES, ids=[f"{m} {' '.join(w)}" for m, w in CASES])
def test_a_wrong_path_is_one_line_and_code_2(
    module: str,
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if words[0] == "tasks":
        pytest.importorskip("lm_eval", reason='needs pip install ".[lm-eval]"')
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "FILE").write_text("x", encoding="utf-8")
    (tmp_path / "TOKENIZER").mkdir()
    shipped = PACKAGE / "data" / "judge" / "tokenizer.json"
    (tmp_path / "TOKENIZER" / "tokenizer.json").write_bytes(shipped.read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [module, *words])
    monkeypatch.delitem(sys.modules, module, raising=False)
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(module, run_name="__main__", alter_sys=False)
    told = capsys.readouterr()
    assert ended.value.code == 2, told.err
    assert len(told.err.strip().splitlines()) == 1, told.err
    assert told.err.startswith("Error: ") and "Traceback" not in told.err


@pytest.mark.external
def test_the_program_of_the_harness_ends_with_one_line(tmp_path: Path) -> None:
    """Its model registers itself once in a process."""
    pytest.importorskip("lm_eval", reason='needs pip install ".[lm-eval]"')
    words = ["--model", "dlm", "--model_args", "pretrained=./MISSING", "--tasks", "MISSING"]
    done = subprocess.run(
        [sys.executable, "-m", "dlm_eval.tasks.harness", *words],
        cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "Traceback" not in done.stderr, done.stderr


@pytest.mark.external
def test_the_program_of_the_harness_runs_without_a_gpu(tmp_path: Path) -> None:
    """It passes cuda:0 where no device was asked for."""
    pytest.importorskip("lm_eval", reason='needs pip install ".[lm-eval]"')
    words = ["--model", "dlm", "--tasks", "sudoku4x4", "--limit", "1"]
    words += ["--model_args", "pretrained=tiny-books,steps=2,max_new_tokens=8"]
    words += ["--include_path", str(PACKAGE / "tasks" / "local")]
    done = subprocess.run(
        [sys.executable, "-m", "dlm_eval.tasks.harness", *words],
        cwd=tmp_path, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "solved" in done.stdout
    assert done.stderr.count("device cuda:0: there is no GPU") == 1

"""Rules of the local tasks: right answers count, near misses do not; the data is whole."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from dlm_eval.tasks.local import rules

from dlm_sampling.errors import UsageError

GRID = {"puzzle": "3102200002100320", "solution": "3142243142131324"}


def test_sudoku() -> None:
    assert rules.sudoku(GRID, [" 3142 2431 4213 1324"]) == {"cells": 1.0, "solved": 1.0}
    half = rules.sudoku(GRID, ["3142243142131321"])
    assert half["solved"] == 0.0 and half["cells"] == 7 / 8
    assert rules.sudoku(GRID, ["no"]) == {"cells": 0.0, "solved": 0.0}


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("100 - (93 - 30) - 14", False),
        ("93 - (100 - 30)", True),
        (" 30 + 93 - 100 = 23\nand", True),
        ("30 + 93 - 100 + 0", False),
        ("23", False),
        ("93 - 100 - -30", False),
        ("__import__('os')", False),
        ("30 / (93 - 93) + 100", False),
        ("", False),
    ],
)
def test_countdown(text: str, right: bool) -> None:
    doc = {"input": "30,100,93", "output": "23"}
    assert rules.countdown(doc, [text]) == {"solved": float(right)}


def test_programs() -> None:
    doc: dict[str, Any] = rules.load("humaneval")["test"][0]
    assert rules.humaneval(doc, [doc["canonical_solution"]]) == {"pass@1": 1.0}
    assert rules.humaneval(doc, ["    return False\n"]) == {"pass@1": 0.0}
    doc = rules.load("mbpp")["test"][0]
    assert rules.mbpp(doc, [doc["code"]]) == {"pass@1": 1.0}
    assert rules.mbpp(doc, [f"Sure:\n```python\n{doc['code']}\n```"]) == {"pass@1": 1.0}


def test_programs_that_never_end_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "SECONDS", 0.5)
    assert not rules.passes("while True: pass")


def test_a_program_that_leaves_before_its_tests_does_not_pass() -> None:
    doc: dict[str, Any] = rules.load("humaneval")["test"][0]
    assert rules.humaneval(doc, ["    exit()\n"]) == {"pass@1": 0.0}
    assert rules.humaneval(doc, ["    import os; os._exit(0)\n"]) == {"pass@1": 0.0}
    asked: dict[str, Any] = {"test_imports": [], "test_list": ["assert f(1) == 2"]}
    for end in ("sys.exit(0)", "os._exit(0)", "raise SystemExit"):
        code = f"import os, sys\ndef f(x):\n    return 0\n{end}\n"
        assert rules.mbpp(asked, [code]) == {"pass@1": 0.0}
    assert rules.mbpp(asked, ["def f(x):\n    return 2"]) == {"pass@1": 1.0}
    assert rules.passes("print('done')") and not rules.passes("1 / 0")


def test_the_data_is_whole() -> None:
    names = [path.name.removesuffix(".jsonl.gz") for path in rules.DATA.glob("*.gz")]
    found = {name: len(rules._rows(rules.DATA, name)) for name in names}
    assert found == {
        "countdown": 256,
        "gsm8k_test": 1319,
        "gsm8k_train": 8,
        "humaneval": 164,
        "mbpp": 257,
        "mbpp_train": 3,
        "sudoku4x4": 500,
    }


def test_files_as_they_are_published(tmp_path: Path) -> None:
    folder = str(tmp_path)
    with pytest.raises(
        UsageError, match=r"--data .*: has no gsm8k_test, of the endings \.jsonl\.gz"
    ):
        rules.load("gsm8k_test", "gsm8k_train", folder)
    (tmp_path / "4x4_test_sudoku.csv").write_text(
        f"Puzzle,Solution\n0{GRID['puzzle'][1:]},{GRID['solution']}\n", encoding="utf-8"
    )
    wanted = {"puzzle": f"0{GRID['puzzle'][1:]}", "solution": GRID["solution"]}
    assert list(rules.load("sudoku4x4", folder=folder)["test"]) == [wanted]
    tasks = [{"task_id": i, "prompt": str(i), "test_imports": []} for i in (2, 6, 11, 510, 511)]
    (tmp_path / "sanitized-mbpp.json").write_text(json.dumps(tasks), encoding="utf-8")
    found = rules.load("mbpp", "mbpp_train", folder)
    assert [row["task_id"] for row in found["test"]] == [11, 510]
    assert [row["task_id"] for row in found["train"]] == [2]
    full = {"task_id": 3, "text": "Add", "test_setup_code": "import math"}
    (tmp_path / "mbpp_train.jsonl").write_text(json.dumps(full) + "\n", encoding="utf-8")
    (row,) = rules.load("mbpp", "mbpp_train", folder)["train"]
    assert (row["prompt"], row["test_imports"]) == ("Add", ["import math"])
    with gzip.open(tmp_path / "HumanEval.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write('{"prompt": "def f"}\n')
    assert rules.load("humaneval", folder=folder)["test"][0] == {"prompt": "def f"}
    with gzip.open(tmp_path / "HumanEval.jsonl.gz", "at", encoding="utf-8") as file:
        file.write('{"promt": "def g"}\n')
    told = r"HumanEval\.jsonl\.gz, line 2 has no column 'prompt', .* Did you mean 'promt'"
    with pytest.raises(UsageError, match=told):
        rules.load("humaneval", folder=folder)

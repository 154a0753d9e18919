"""Rules of the local tasks: right answers count, near misses do not; the data is whole."""

from __future__ import annotations

from typing import Any

import pytest
from dlm_eval.tasks.local import rules

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
    doc: dict[str, Any] = rules.load("humaneval.jsonl.gz")["test"][0]
    assert rules.humaneval(doc, [doc["canonical_solution"]]) == {"pass@1": 1.0}
    assert rules.humaneval(doc, ["    return False\n"]) == {"pass@1": 0.0}
    doc = rules.load("mbpp.jsonl.gz")["test"][0]
    assert rules.mbpp(doc, [doc["code"]]) == {"pass@1": 1.0}
    assert rules.mbpp(doc, [f"Sure:\n```python\n{doc['code']}\n```"]) == {"pass@1": 1.0}


def test_programs_that_never_end_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "SECONDS", 0.5)
    assert not rules.passes("while True: pass")


def test_a_program_that_leaves_before_its_tests_does_not_pass() -> None:
    doc: dict[str, Any] = rules.load("humaneval.jsonl.gz")["test"][0]
    assert rules.humaneval(doc, ["    exit()\n"]) == {"pass@1": 0.0}
    assert rules.humaneval(doc, ["    import os; os._exit(0)\n"]) == {"pass@1": 0.0}
    asked: dict[str, Any] = {"test_imports": [], "test_list": ["assert f(1) == 2"]}
    for end in ("sys.exit(0)", "os._exit(0)", "raise SystemExit"):
        code = f"import os, sys\ndef f(x):\n    return 0\n{end}\n"
        assert rules.mbpp(asked, [code]) == {"pass@1": 0.0}
    assert rules.mbpp(asked, ["def f(x):\n    return 2"]) == {"pass@1": 1.0}
    assert rules.passes("print('done')") and not rules.passes("1 / 0")


def test_the_data_is_whole() -> None:
    found = {path.name: len(rules._rows(path)) for path in rules.DATA.glob("*.gz")}
    assert found == {
        "countdown.jsonl.gz": 256,
        "gsm8k_test.jsonl.gz": 1319,
        "gsm8k_train.jsonl.gz": 8,
        "humaneval.jsonl.gz": 164,
        "mbpp.jsonl.gz": 257,
        "mbpp_train.jsonl.gz": 3,
        "sudoku4x4.jsonl.gz": 500,
    }

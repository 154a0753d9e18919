"""Functions of the local tasks: their data, and what counts as a right answer.

Programs of HumanEval and MBPP are run in a process of their own with a time limit.  That is no
sandbox: the harness runs such a task only with its own consent flag, `--confirm_run_unsafe_code`.
"""

from __future__ import annotations

import ast
import gzip
import re
import secrets
import subprocess
import sys
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any

from dlm_sampling.errors import UsageError, suggestion

DATA = Path(__file__).parent / "data"
SECONDS = 10.0
PUBLISHED = {
    "humaneval": ("HumanEval",),
    "mbpp": ("sanitized-mbpp",),
    "mbpp_train": ("sanitized-mbpp", "mbpp"),
    "countdown": ("countdown_cd3_test", "d1_countdown_cd3_test"),
    "sudoku4x4": ("4x4_test_sudoku", "d1_4x4_test_sudoku"),
}
"""Names, without their endings, under which the files of a task are published."""
ENDINGS = (".jsonl.gz", ".jsonl", ".json", ".json.gz", ".csv", ".csv.gz")
OF_TASK_ID = {"mbpp": range(11, 511), "mbpp_train": range(2, 5)}
"""Tasks of MBPP that are tested, and those of the prompt (Austin et al. 2021)."""


def load(test: str, train: str | None = None, folder: str | None = None, **_: Any) -> Any:
    """Return the data set of a task: splits "test" and perhaps "train".

    Args:
        test: name of the file of the test rows, without its ending.
        train: name of the file of the rows that few-shot prompts are taken from.
        folder: where the files are, under these names or those of `PUBLISHED`; default those of
            this package.

    Raises:
        UsageError: the folder lacks a file; the message has its names.
    """
    import datasets

    place = DATA if folder is None else Path(folder)
    names = {"test": test} | ({} if train is None else {"train": train})
    # Built from rows, so that no cache of files with the same name is met.
    return datasets.DatasetDict(
        {split: datasets.Dataset.from_list(_rows(place, name)) for split, name in names.items()}
    )


def _rows(folder: Path, name: str) -> list[dict[str, Any]]:
    from dlm_sampling.jobs import PromptSource, read_rows

    path = _find(folder, name)
    with tempfile.TemporaryDirectory() as place:
        plain = path
        if path.suffix == ".gz":
            plain = Path(place) / path.stem
            plain.write_bytes(gzip.decompress(path.read_bytes()))
        rows = list(read_rows(PromptSource(str(plain))))
    found: list[dict[str, Any]] = []
    for row in rows:
        if isinstance(row.value, Exception):
            raise row.value
        if not isinstance(row.value, dict):
            raise UsageError(f"{row.place}: must be an object with columns.")
        if missing := [str(key) for key in rows[0].value if key not in row.value]:
            place = row.place.replace(str(plain), str(path))
            hint = suggestion(missing[0], map(str, row.value))
            raise UsageError(f"{place} has no column '{missing[0]}', as the rows before. {hint}")
        found.append(_as_shipped({key.lower(): cell for key, cell in row.value.items()}))
    wanted = OF_TASK_ID.get(name)
    return [row for row in found if wanted is None or row["task_id"] in wanted]


def _find(folder: Path, name: str) -> Path:
    names = (name, *PUBLISHED.get(name, ()))
    for known in names:
        for ending in ENDINGS:
            path = folder / f"{known}{ending}"
            if path.is_file():
                return path
    raise UsageError(
        f"--data {folder}: has no {' or '.join(names)}, of the endings {', '.join(ENDINGS)}."
    )


def _as_shipped(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row of the full MBPP with the columns of the sanitized one; any other as it is."""
    if "test_setup_code" not in row:
        return row
    setup = row["test_setup_code"]
    return {**row, "prompt": row["text"], "test_imports": [setup] if setup else []}


def sudoku(doc: dict[str, str], results: list[str]) -> dict[str, float]:
    """Return the share of empty cells that are right, and whether all are.

    The answer is the first 16 digits of the text; other characters are passed over.
    """
    digits = "".join(re.findall("[1-4]", results[0]))[:16].ljust(16, "0")
    pairs = zip(digits, doc["solution"], doc["puzzle"], strict=True)
    right = [digit == wanted for digit, wanted, given in pairs if given == "0"]
    solved = float(digits == doc["solution"])
    return {"cells": sum(right) / len(right) if right else solved, "solved": solved}


def countdown(doc: dict[str, str], results: list[str]) -> dict[str, float]:
    """Return whether the expression uses each number once and has the asked value."""
    text = results[0].strip().split("\n")[0].split("=")[0]
    numbers = sorted(int(number) for number in doc["input"].split(","))
    try:
        value, used = _value(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return {"solved": 0.0}
    return {"solved": float(value == int(doc["output"]) and sorted(used) == numbers)}


def _value(node: ast.expr) -> tuple[Fraction, list[int]]:
    """Return the value of an expression of + - * / over whole numbers, and those numbers."""
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return Fraction(node.value), [node.value]
    if not isinstance(node, ast.BinOp):
        raise ValueError("no arithmetic")
    (a, left), (b, right) = _value(node.left), _value(node.right)
    rules = {ast.Add: a.__add__, ast.Sub: a.__sub__, ast.Mult: a.__mul__, ast.Div: a.__truediv__}
    if type(node.op) not in rules:
        raise ValueError("another operator")
    return rules[type(node.op)](b), [*left, *right]


def humaneval(doc: dict[str, str], results: list[str]) -> dict[str, float]:
    """Return whether the completed function passes its tests."""
    program = f"{doc['prompt']}{results[0]}\n{doc['test']}\ncheck({doc['entry_point']})\n"
    return {"pass@1": float(passes(program))}


def mbpp(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Return whether the program passes its assertions."""
    fenced = re.search(r"```(?:python)?\n(.*?)```", results[0], re.DOTALL)
    code = fenced[1] if fenced else results[0]
    program = "\n".join([*doc["test_imports"], code, *doc["test_list"], ""])
    return {"pass@1": float(passes(program))}


def passes(program: str) -> bool:
    """Run a program of untrusted origin in a process of its own; it passes if its end is reached.

    A program that leaves before its tests ends well too, so that its last line says a word that it
    cannot know.
    """
    word = secrets.token_hex(16)
    program = f"{program}\nprint({word!r})\n"
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run(
                [sys.executable, "-I", "-c", program],
                cwd=folder,
                capture_output=True,
                stdin=subprocess.DEVNULL,
                timeout=SECONDS,
                check=False,
            )
        except (subprocess.TimeoutExpired, ValueError):
            return False
    return done.returncode == 0 and done.stdout.rstrip().endswith(word.encode())

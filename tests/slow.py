"""Keeps the list of slow tests, `slow.txt`, which the fast subset leaves out.

    pytest -n2 --junitxml=run.xml && python -m tests.slow run.xml

A test is slow where its median case takes longer than `LIMIT`.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from xml.etree import ElementTree

FILE = Path(__file__).parent / "slow.txt"
LIMIT = 0.1  # seconds


def slow_tests() -> dict[str, float]:
    """Return the slow tests and their seconds: "tests/engine/test_run.py::test_name"."""
    lines = FILE.read_text(encoding="utf-8").splitlines()
    pairs = (line.split() for line in lines if not line.startswith("#"))
    return {name: float(seconds) for seconds, name in pairs}


def measured(report: Path) -> dict[str, float]:
    """Return every test of a JUnit report with the seconds of its median case."""
    cases: dict[str, list[float]] = defaultdict(list)
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        test = case.attrib["name"].partition("[")[0]
        path = case.attrib["classname"].replace(".", "/")
        cases[f"{path}.py::{test}"].append(float(case.attrib["time"]))
    return {name: median(seconds) for name, seconds in cases.items()}


def written(seconds: Iterable[tuple[str, float]]) -> str:
    """Return the text of `slow.txt`."""
    head = f"# Tests whose median case takes over {LIMIT} s; written by tests/slow.py.\n"
    return head + "".join(f"{s:.1f} {name}\n" for name, s in sorted(seconds) if s > LIMIT)


if __name__ == "__main__":
    FILE.write_text(written(measured(Path(sys.argv[1])).items()), encoding="utf-8")

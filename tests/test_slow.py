"""The list of slow tests names tests that exist, and is made from a report as it says."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

from tests import slow

ROOT = Path(__file__).resolve().parent.parent
REPORT = """<testsuites><testsuite>
<testcase classname="tests.ops.test_a" name="test_x[1]" time="0.1"/>
<testcase classname="tests.ops.test_a" name="test_x[2]" time="9.0"/>
<testcase classname="tests.ops.test_a" name="test_x[3]" time="0.3"/>
<testcase classname="tests.ops.test_a" name="test_y" time="0.1"/>
<testcase classname="tests.test_b" name="test_y" time="2.04"/>
</testsuite></testsuites>"""


@cache
def names_in(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_slow_test_exists() -> None:
    named = [name.split("::") for name in slow.slow_tests()]
    gone = [(path, test) for path, test in named if test not in names_in(ROOT / path)]
    assert not gone, f"take these lines out of {slow.FILE.name}: {gone}"


def test_the_median_of_the_cases_decides(tmp_path: Path) -> None:
    report = tmp_path / "run.xml"
    report.write_text(REPORT)
    seconds = slow.measured(report)
    assert seconds == {
        "tests/ops/test_a.py::test_x": 0.3, "tests/ops/test_a.py::test_y": 0.1,
        "tests/test_b.py::test_y": 2.04,
    }  # fmt: skip
    assert slow.written(seconds.items()).splitlines()[1:] == [
        "0.3 tests/ops/test_a.py::test_x", "2.0 tests/test_b.py::test_y",
    ]  # fmt: skip

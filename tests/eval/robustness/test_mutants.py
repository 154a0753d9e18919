"""Mutants of a toy module: which are made, which a good and a bad test kill, and how they run."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from dlm_eval.robustness.mutants.__main__ import sample, summary
from dlm_eval.robustness.mutants.equivalent import EQUIVALENT
from dlm_eval.robustness.mutants.operators import mutants, planted
from dlm_eval.robustness.mutants.selection import selection

ROOT = Path(__file__).resolve().parents[3]
TOY = '''
LIMIT = 3

def clip(x: int = 1) -> int:
    """Return x, at most 3."""
    if not x < LIMIT:
        return LIMIT
    return max(x, 0) + 1

class Counter:
    @property
    def total(self):
        if self.many is None:
            raise ValueError(f"{1 + 1}")
        return -self.a & self.b

    def spin(self):
        n = 0
        while n != 4:
            n = n + 1
        return n
'''


def test_mutants_of_a_toy() -> None:
    names = [mutant.name for mutant in mutants(TOY)]
    assert names == [
        "clip: not x < LIMIT -> not not x < LIMIT",
        "clip: not x < LIMIT -> x < LIMIT",
        "clip: x < LIMIT -> x <= LIMIT",
        "clip: max(x, 0) + 1 -> max(x, 0) - 1",
        "clip: max(x, 0) + 1 -> max(x, 0)",
        "clip: max(x, 0) -> min(x, 0)",
        "clip: 0 -> 1",
        "clip: 0 -> -1",
        "clip: 1 -> 2",
        "clip: 1 -> 0",
        "Counter.total: self.many is None -> self.many is not None",
        "Counter.total: -self.a & self.b -> -self.a | self.b",
        "Counter.total: -self.a & self.b -> -self.a",
        "Counter.total: -self.a -> self.a",
        "Counter.spin: 0 -> 1",
        "Counter.spin: 0 -> -1",
        "Counter.spin: n != 4 -> n == 4",
        "Counter.spin: 4 -> 5",
        "Counter.spin: 4 -> 3",
        "Counter.spin: n + 1 -> n - 1",
        "Counter.spin: n + 1 -> n",
        "Counter.spin: 1 -> 2",
        "Counter.spin: 1 -> 0",
    ]


def test_a_mutant_changes_one_expression() -> None:
    before = ast.unparse(ast.parse(TOY)).splitlines()
    for mutant in mutants(TOY):
        after = ast.unparse(planted(TOY, mutant)).splitlines()
        changed = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
        assert len(changed) == 1, mutant


TESTS = """
import functools
import gc
import toy

gc.freeze()  # as the suite's conftest does

@functools.cache
def spun():
    return toy.Counter().spin()

def test_clip():
    assert [toy.clip(x) for x in (1, 3, 5)] == [2, 3, 3]

def test_total():
    counter = toy.Counter()
    counter.many, counter.a, counter.b = 1, 6, 4
    assert counter.total == -6 & 4

def test_spin():
    assert spun() > 3
"""
ANYWAY = TESTS + "\ndef test_wrong():\n    assert toy.clip(1) == 0\n"
IN_FORK = "import os\nfirst = os.getpid()\ndef test_fork():\n    assert os.getpid() == first\n"
RUN = """
import json
from pathlib import Path
from dlm_eval.robustness.mutants.operators import mutants
from dlm_eval.robustness.mutants.trial import try_mutants

source = Path("toy.py").resolve()
found = mutants(source.read_text())
told = {}
for tests in ("test_toy.py", "test_anyway.py", "test_in_fork.py"):
    try:
        some = found if tests == "test_toy.py" else found[:1]
        done = try_mutants(source, "toy", some, ["--override-ini=addopts=", tests], floor=0)
        told[tests] = {m.name: v for m, v in zip(some, done.verdicts)}
    except RuntimeError as error:
        told[tests] = str(error)
Path("told.json").write_text(json.dumps(told))
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Verdicts of three sets of tests of the toy, from a process that has nothing else in it."""
    folder = tmp_path_factory.mktemp("toy")
    (folder / "toy.py").write_text(TOY)
    for name, tests in (("toy", TESTS), ("anyway", ANYWAY), ("in_fork", IN_FORK)):
        (folder / f"test_{name}.py").write_text(tests)
    paths = [str(folder), str(ROOT), str(ROOT / "eval")]
    subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {paths}\n{RUN}"],
        cwd=folder, check=True, capture_output=True, timeout=250,
    )  # fmt: skip
    return json.loads((folder / "told.json").read_text())


def test_a_toy_has_the_survivors_that_its_tests_leave(told: dict[str, Any]) -> None:
    verdicts = told["test_toy.py"]
    assert {name for name, verdict in verdicts.items() if verdict == "survived"} == {
        "clip: 0 -> 1",  # no test has x < 1
        "clip: 0 -> -1",
        "Counter.spin: 0 -> 1",  # the loop ends at 4 all the same
        "Counter.spin: 0 -> -1",
        "Counter.spin: 4 -> 5",  # the test asks for more than 3
        "Counter.spin: 1 -> 2",
    }
    assert {name for name, verdict in verdicts.items() if verdict == "timeout"} == {
        "Counter.spin: n + 1 -> n - 1",
        "Counter.spin: n + 1 -> n",
        "Counter.spin: 1 -> 0",
    }


def test_tests_that_fail_without_a_fault_judge_nothing(told: dict[str, Any]) -> None:
    assert "tests fail without a fault" in told["test_anyway.py"]
    assert "fail in a fork without a fault" in told["test_in_fork.py"]


def test_a_sample_stays_when_other_lines_move() -> None:
    found = mutants(TOY)
    moved = mutants("import os\n\n" + TOY)
    assert [m.name for m in sample(found, 5, 0)] == [m.name for m in sample(moved, 5, 0)]
    assert len(sample(found, None, 0)) == len(found)
    assert sample(found, 5, 0) != sample(found, 5, 1)


def test_every_reason_belongs_to_a_mutant_that_exists() -> None:
    for path, reasons in EQUIVALENT.items():
        names = {mutant.name for mutant in mutants((ROOT / path).read_text(encoding="utf-8"))}
        assert set(reasons) <= names, path


def test_survivors_with_a_reason_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EQUIVALENT, "toy.py", {"clip: 0 -> 1": "no caller has x < 1"})
    survived = [{"line": 8, "mutant": "clip: 0 -> 1"}, {"line": 8, "mutant": "clip: 0 -> -1"}]
    entry = {"mutants": 10, "killed": 8, "survived": survived}
    assert summary({"toy.py": entry}) == {
        "files_tried": 1, "mutants": 10, "killed": 8, "equivalent": 1, "survived": 1,
        "killed_of_those_that_change_behaviour": 0.8889,
    }  # fmt: skip
    assert survived[0]["equivalent"] == "no caller has x < 1"


def test_tests_of_a_file() -> None:
    def of(path: str) -> tuple[str, ...]:
        return selection(ROOT, Path("dlm_sampling") / path).arguments

    assert of("ops/positions.py") == ("tests/ops/test_positions.py",)
    parity, contract = "tests/test_parity_samplers.py", "tests/test_contract.py"
    assert of("samplers/eb_sampler.py") == ("tests/samplers/test_eb_sampler.py", parity)
    greedy = selection(ROOT, Path("dlm_sampling/samplers/planned_greedy.py"))
    assert {"tests/samplers/test_planned.py", contract} <= set(greedy.arguments)
    assert greedy.contract == ("planned-greedy",)
    llada = selection(ROOT, Path("dlm_sampling/samplers/llada.py"))
    assert llada.files == ("tests/samplers/test_llada.py",)
    assert "llada_low_confidence" in llada.parity and "rdm" not in llada.parity
    assert of("samplers/lsd/saved.py") == ("tests/samplers/lsd/test_solvers.py",)

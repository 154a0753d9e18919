"""Runs the checks in `interpreted/` in a process of their own, under Triton's interpreter."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.forks import Forks
from tests.kernels.interpreter_process import run_checks

CHECKS = {path.stem: path for path in (Path(__file__).parent / "interpreted").glob("check_*.py")}
PARTS = (  # of about the same length
    ("head",),
    ("recorded", "dispatch", "philox", "race"),
    ("aligned_reads", "categorical", "combined"),
    ("filters", "positions", "long_rows"),
)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("part", PARTS, ids=" ".join)
@pytest.mark.skipif(sys.platform != "linux", reason="triton is made for Linux only")
def test_kernels_under_the_interpreter(part: tuple[str, ...], interpreter: Forks) -> None:
    """Parts, so that the workers of the test run can share the longest test."""
    assert {f"check_{name}" for names in PARTS for name in names} == CHECKS.keys()
    files = [str(CHECKS[f"check_{name}"]) for name in part]
    code, printed, err = interpreter.call(run_checks, *files).ended(280)
    out = printed.decode()
    assert code == 0, out[-8000:] + err.decode()[-2000:]
    assert " passed" in out
    assert " skipped" not in out

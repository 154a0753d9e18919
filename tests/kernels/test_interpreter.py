"""Runs the checks in `interpreted/` in a process of their own, under Triton's interpreter.

The interpreter must be chosen before triton is first imported, and it would break every other use
of triton in this process.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHECKS = {path.stem: path for path in (Path(__file__).parent / "interpreted").glob("check_*.py")}
PARTS = (  # of about the same length
    ("head",),
    ("recorded", "dispatch", "philox"),
    ("aligned_reads", "categorical", "combined"),
    ("filters", "positions", "long_rows"),
)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("part", PARTS, ids=" ".join)
@pytest.mark.skipif(sys.platform != "linux", reason="triton is made for Linux only")
def test_kernels_under_the_interpreter(part: tuple[str, ...]) -> None:
    """Parts, so that the workers of the test run can share the longest test."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "DLM_"))}
    environment |= {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    assert {f"check_{name}" for names in PARTS for name in names} == CHECKS.keys()
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider"]
    command += [str(CHECKS[f"check_{name}"]) for name in part]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
    assert " skipped" not in done.stdout

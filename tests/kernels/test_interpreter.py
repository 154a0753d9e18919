"""Runs the checks in `interpreted/` in a process of their own, under Triton's interpreter.

The interpreter must be chosen before triton is first imported, and it would break every other use
of triton in this process.
"""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHECKS = sorted((Path(__file__).parent / "interpreted").glob("check_*.py"))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="triton is made for Linux only")
def test_kernels_under_the_interpreter() -> None:
    """Two processes at a time: the interpreter uses one core, and this is the longest test."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "DLM_"))}
    environment |= {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}

    def run(checks: list[Path]) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        return subprocess.run(
            [*command, *map(str, checks)], cwd=ROOT, env=environment, capture_output=True,
            text=True, check=False,
        )  # fmt: skip

    assert len(CHECKS) == 10
    with ThreadPoolExecutor(2) as pool:
        for done in pool.map(run, (CHECKS[::2], CHECKS[1::2])):
            assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
            assert " passed" in done.stdout
            assert " skipped" not in done.stdout

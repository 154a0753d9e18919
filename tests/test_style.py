"""The linters and the type checker, run as tests so that one command checks everything."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def run(*command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False,
        timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-2000:]}"


def test_ruff_check() -> None:
    run("ruff", "check", "--output-format=concise", ".")


def test_ruff_format() -> None:
    run("ruff", "format", "--check", "--quiet", ".")


@pytest.mark.slow
@pytest.mark.long
def test_pyright_strict() -> None:
    run("pyright", "--pythonpath", sys.executable)

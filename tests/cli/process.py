"""The command run in this process or in one of its own, for the tests of the command line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]


class Result(NamedTuple):
    code: int
    out: str
    err: str


Command = Callable[..., Result]


def assert_one_line(result: Result, code: int, *words: str) -> None:
    assert result.code == code, result
    assert len(result.err.splitlines()) == 1, result.err
    assert result.err.startswith("Error: ")
    assert "Traceback" not in result.err
    for word in words:
        assert word in result.err, result.err
    assert result.out == ""


SHORT = ("--max-new-tokens", "12", "--sampler", "ancestral")


def start(*arguments: str, **options: object) -> subprocess.Popen[bytes]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment |= options.pop("env", {})  # type: ignore[arg-type]
    return subprocess.Popen(
        [sys.executable, "-m", "dlm_sampling", *arguments],
        env=environment,
        # A shell without job control starts a job in the background deaf to SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
        | options,  # type: ignore[call-overload]
    )

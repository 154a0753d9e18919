"""Exit codes of a process: an interrupt, a closed pipe, a full disk, closed streams."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from dlm_sampling.cli.exits import quieten, verdict
from dlm_sampling.errors import JobMismatchError, NoLawError, SamplingWarning, UsageError
from tests.cli.process import ROOT, SHORT, start


@pytest.fixture(scope="module")
def many_prompts(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("prompts") / "many.txt"
    path.write_text("a\n" * 5000, encoding="utf-8")
    return str(path)


def test_our_warnings_are_shown_and_no_others(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        quieten(debug=False)
        warnings.warn("padding moves\nits logits", SamplingWarning, stacklevel=1)
        warnings.warn("a library is old", UserWarning, stacklevel=1)
    assert capsys.readouterr().err == "WARNING: padding moves its logits\n"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("--live"), 2),
        (ValueError("steps=0"), 2),
        (JobMismatchError("seed"), 4),
        (NoLawError("row 3 of the logits holds NaN"), 1),
        (OSError("disk"), 1),
        (TypeError("unsupported operand"), 1),
    ],
)
def test_a_value_is_wrong_usage_and_the_rest_is_a_failure(error: Exception, code: int) -> None:
    assert verdict(error) == (code, f"Error: {error}")


def test_interrupt(tiny: str, many_prompts: str) -> None:
    process = start("generate", "-i", many_prompts, "--model", tiny, *SHORT, "--batch-size", "1")
    try:
        assert process.stdout is not None
        assert process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert err == b"Interrupted.\n"


def test_closed_pipe(tiny: str, many_prompts: str) -> None:
    program = (
        f"{sys.executable} -m dlm_sampling generate -i {many_prompts} --model {tiny} --json"
        f" {' '.join(SHORT)} --batch-size 1 | head -n 1; echo ${{PIPESTATUS[0]}}"
    )
    done = subprocess.run(
        ["bash", "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    line, code = done.stdout.splitlines()
    assert json.loads(line)["index"] == 0
    assert code == "1"
    assert done.stderr.startswith("Error: the reader of the output closed it")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk() -> None:
    with open("/dev/full", "wb") as full:
        process = start("samplers", stdout=full)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert len(err.splitlines()) == 1
    assert b"No space left" in err


def test_closed_streams(tiny: str) -> None:
    program = f"{sys.executable} -m dlm_sampling samplers nothing"
    closed = {
        ">&-": (1, b"Error: Standard output is closed"),
        "2>&-": (2, b""),
        "<&-": (2, b"Error"),
    }
    for redirection, (code, words) in closed.items():
        done = subprocess.run(
            ["bash", "-c", f"{program} {redirection}"],
            cwd=ROOT,
            capture_output=True,
            check=False,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        assert done.returncode == code, done
        assert done.stderr.startswith(words)
        assert done.stdout == b""

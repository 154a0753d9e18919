"""Exit codes of a process: an interrupt, a closed pipe, a full disk, closed streams."""

from __future__ import annotations

import json
import signal
import sys
import time
import warnings
from pathlib import Path

import pytest

from dlm_sampling.cli.exits import end, quieten, terminate_as_interrupt, verdict
from dlm_sampling.errors import JobMismatchError, NoLawError, SamplingWarning, UsageError
from tests.cli.process import SHORT
from tests.forks import CLOSED, Forks


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


class Finaliser:
    """An object that is interrupted while it is freed."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        signal.raise_signal(self.number)
        time.sleep(0)


def free_and_wait(number: int, *times: int) -> None:
    def run(_: list[str]) -> None:
        for _ in times:
            Finaliser(number)
        time.sleep(60)

    end(run, [])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupt_that_falls_into_a_finaliser_is_not_lost(forks: Forks, number: int) -> None:
    begun = time.monotonic()
    for times in ((1,), (1, 2, 3)):
        process = forks.call(free_and_wait, int(number), *times)
        code, _, err = process.ended()
        assert (code, err) == (130, b"Interrupted.\n")
    assert time.monotonic() - begun < 60


def test_other_errors_of_finalisers_are_reported_as_before() -> None:
    class Broken:
        def __del__(self) -> None:
            raise OSError("disk")

    hook, alarm, seen = sys.unraisablehook, signal.getsignal(signal.SIGALRM), list[str]()
    try:
        sys.unraisablehook = mine = lambda found: seen.append(str(found.exc_value))
        with terminate_as_interrupt():
            Broken()
        assert sys.unraisablehook is mine
    finally:
        sys.unraisablehook = hook
    assert seen == ["disk"]
    assert signal.getsignal(signal.SIGALRM) is alarm


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_interrupt_does_not_disturb_the_end(
    number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(words: list[str]) -> None:
        signal.raise_signal(number)

    def again(text: str) -> None:
        signal.raise_signal(number)
        print(text, file=sys.stderr)

    monkeypatch.setattr("dlm_sampling.cli.exits.note", again)
    monkeypatch.setattr("dlm_sampling.cli.exits.close_stdout", lambda: signal.raise_signal(number))
    usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
    found = signal.signal(number, usual)  # a shell starts background jobs with SIGINT ignored
    try:
        with pytest.raises(SystemExit, match="130"):
            end(run, [])
        assert signal.getsignal(number) is usual
    finally:
        signal.signal(number, found)
    assert capsys.readouterr().err == "Interrupted.\n"


def test_interrupt(forks: Forks, tiny: str, many_prompts: str) -> None:
    one = ("--batch-size", "1")
    process = forks.command("generate", "-i", many_prompts, "--model", tiny, *SHORT, *one)
    assert process.first_line()
    process.send_signal(signal.SIGINT)
    code, _, err = process.ended()
    assert (code, err) == (130, b"Interrupted.\n")


def test_closed_pipe(forks: Forks, tiny: str, many_prompts: str) -> None:
    one = ("--batch-size", "1", "--json")
    process = forks.command("generate", "-i", many_prompts, "--model", tiny, *SHORT, *one)
    assert json.loads(process.first_line())["index"] == 0
    process.close(1)
    code, _, err = process.ended()
    assert code == 1
    assert err.startswith(b"Error: the reader of the output closed it")
    assert len(err.splitlines()) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk(forks: Forks) -> None:
    with open("/dev/full", "wb") as full:
        code, _, err = forks.command("samplers", stdout=full.fileno()).ended()
    assert code == 1
    assert len(err.splitlines()) == 1
    assert b"No space left" in err


@pytest.mark.parametrize(
    ("closed", "code", "words"),
    [
        ("stdout", 1, b"Error: Standard output is closed"),
        ("stderr", 2, b""),
        ("stdin", 2, b"Error"),
    ],
)
def test_closed_streams(closed: str, code: int, words: bytes, forks: Forks) -> None:
    found, out, err = forks.command("samplers", "nothing", **{closed: CLOSED}).ended()
    assert found == code, err
    assert err.startswith(words)
    assert out == b""

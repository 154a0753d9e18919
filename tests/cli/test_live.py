"""The live canvas of `generate --live`, on a terminal and without one."""

from __future__ import annotations

import os
import pty
import re
import select
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from dlm_sampling.cli import app as cli
from tests.cli.process import Command
from tests.forks import PATIENCE, Forks


def read_terminal(master: int) -> str:
    """Everything that the program writes to the terminal until it closes it."""
    seen = b""
    deadline = time.monotonic() + PATIENCE
    while select.select([master], [], [], max(0.0, deadline - time.monotonic()))[0]:
        try:
            data = os.read(master, 65536)
        except OSError:  # the other side is closed
            return seen.decode(errors="replace")
        if not data:
            return seen.decode(errors="replace")
        seen += data
    raise TimeoutError(f"The terminal is still open after {PATIENCE} s. It shows {seen!r}")


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Run the command in this process with streams on a pseudo-terminal; return what it shows."""
    for name, value in {"TERM": "xterm", "COLUMNS": "80", "LINES": "24"}.items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str, streams: tuple[str, ...]) -> str:
        master, slave = pty.openpty()
        with ThreadPoolExecutor(1) as pool, monkeypatch.context() as patch:
            seen = pool.submit(read_terminal, master)
            with os.fdopen(slave, "w", encoding="utf-8") as terminal:
                for stream in streams:
                    patch.setattr(sys, stream, terminal)
                with pytest.raises(SystemExit) as ended:
                    cli.main(list(arguments))
            assert not ended.value.code
            shown = seen.result(timeout=60)
        os.close(master)
        return shown

    return run


LIVE = ("--sampler", "llada", "--max-new-tokens", "60", "--live")
COLOUR = re.compile(r"\x1b\[(?:[\d;]*;)?3[0-7]")


def test_live_on_a_terminal(forks: Forks, tiny: str) -> None:
    master, slave = pty.openpty()
    env = {"TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
    process = forks.command("generate", "Once", "--model", tiny, *LIVE, env=env, stderr=slave)
    os.close(slave)
    screen = read_terminal(master)
    code, written, _ = process.ended()
    out = written.decode()
    os.close(master)
    assert code == 0
    assert out.startswith("Once")
    assert "\x1b" not in out
    assert "·" in screen
    assert "Once" in screen
    assert "60/60 tokens" in screen
    assert COLOUR.search(screen)


def test_live_leaves_the_results_on_a_shared_terminal(
    screen: Callable[..., str], tiny: str
) -> None:
    """Nothing is erased after a result was written: each stands after the canvas before it."""
    arguments = ("generate", "Once", "--model", tiny, "-n", "2", "--batch-size", "1", *LIVE)
    seen = screen(*arguments, streams=("stdout", "stderr"))
    first, second = seen.split("\n---", 1)
    for part in (first, second):
        result = part.rpartition("\x1b[2K")[2]
        assert "Once" in result
        assert "tokens · NFE" not in result


def test_live_without_colour(
    screen: Callable[..., str], tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert COLOUR.search(screen("generate", "Once", "--model", tiny, *LIVE, streams=("stderr",)))
    monkeypatch.setenv("NO_COLOR", "1")
    plain = screen("generate", "Once", "--model", tiny, *LIVE, streams=("stderr",))
    assert "60/60 tokens" in plain
    assert not COLOUR.search(plain)


def test_live_without_a_terminal(command: Command, tiny: str) -> None:
    plain = command("generate", "Once", "--model", tiny, *LIVE[:-1])
    live = command("generate", "Once", "--model", tiny, *LIVE)
    assert live.code == 0
    assert live.out == plain.out
    assert "\x1b" not in live.err

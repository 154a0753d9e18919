"""Fixtures of the command line."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dlm_sampling.cli import app as cli
from tests.cli.process import Command, Result


@pytest.fixture(scope="module")
def tiny(tiny_llada: Path) -> str:
    return str(tiny_llada)


@pytest.fixture
def command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Command]:
    """Run the command in this process: importing torch again for every case would take minutes."""

    def run(*arguments: str, stdin: bytes = b"") -> Result:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as ended:
            cli.main(list(arguments))
        captured = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Result(ended.value.code, captured.out, captured.err)

    handlers = list(logging.getLogger("dlm_sampling").handlers)
    yield run
    logging.getLogger("dlm_sampling").handlers[:] = handlers

"""The command as a process of its own, and an interrupt before it has read anything."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import pytest

import dlm_sampling
from dlm_sampling.__main__ import main


def test_python_m_is_the_command() -> None:
    words = [sys.executable, "-m", "dlm_sampling", "--version"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == dlm_sampling.__version__


def test_an_interrupt_of_the_import_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Interrupted(ModuleType):
        def __getattr__(self, name: str) -> object:
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "dlm_sampling.cli", Interrupted("dlm_sampling.cli"))
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130
    assert capsys.readouterr().err == "Interrupted.\n"

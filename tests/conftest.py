"""Fixtures that several test files share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# The tensors of the tests are small: a second thread costs more than it helps, several times as
# much on a busy machine.  Set before torch is imported, and passed on to child processes.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def tiny_llada(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a LLaDA checkpoint of a few kilobytes, with random weights and a tokenizer."""
    from tests.tiny import save_tiny_llada

    return save_tiny_llada(tmp_path_factory.mktemp("models") / "tiny")

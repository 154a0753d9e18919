"""Fixtures that several test files share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# The tensors of the tests are small: a second thread costs more than it helps, several times as
# much on a busy machine.  Set before torch is imported, and passed on to child processes.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Use every core for the whole suite, and no second process for files that are named."""
    return 0 if config.option.file_or_dir else max(os.cpu_count() or 1, 1)


@pytest.fixture(scope="session")
def tiny_llada(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a LLaDA checkpoint of a few kilobytes, with random weights and a tokenizer."""
    from tests.tiny import save_tiny_llada

    return save_tiny_llada(tmp_path_factory.mktemp("models") / "tiny")

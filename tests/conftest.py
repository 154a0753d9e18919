"""Fixtures that several test files share, and what runs where."""

from __future__ import annotations

import os
import threading
from collections import defaultdict
from pathlib import Path

import pytest
from tqdm import tqdm

# The tensors of the tests are small: a second thread costs more than it helps, several times as
# much on a busy machine.  Set before torch is imported, and passed on to child processes.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# tqdm's own lock is a semaphore that forks share: a fork that is killed while it holds that lock
# stops every later bar of this process for good.  A lock of threads is copied by a fork instead.
tqdm.set_lock(threading.RLock())

MOST_WORKERS = 8  # each holds torch and a model or two


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One worker per core; none where single files are asked for, as each has to import torch."""
    given = config.args_source is pytest.Config.ArgsSource.ARGS
    if given and all(".py" in argument for argument in config.args):
        return 0
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        cores = os.cpu_count() or 1
    return min(cores, MOST_WORKERS)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of a test with many cases the first, the middle and the last stay in the fast subset.

    The longest tests begin first, so that no worker is left with one at the end.
    """
    items.sort(key=lambda item: item.get_closest_marker("long") is None)
    cases: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        cases[item.nodeid.partition("[")[0]].append(item)
    for same in cases.values():
        kept = {0, len(same) // 2, len(same) - 1}
        for index, item in enumerate(same):
            if index not in kept:
                item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def tiny_llada(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a LLaDA checkpoint of a few kilobytes, with random weights and a tokenizer."""
    from tests.tiny import save_tiny_llada

    return save_tiny_llada(tmp_path_factory.mktemp("models") / "tiny")

"""Fixtures that several test files share, and what runs where."""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import signal
import subprocess
import threading
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest
from tqdm import tqdm

from tests.forks import Forks
from tests.slow import slow_tests

# The tensors of the tests are small: a second thread costs more than it helps, several times as
# much on a busy machine.  Set before torch is imported, and passed on to child processes.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# tqdm's own lock is a semaphore that forks share: a fork that is killed while it holds that lock
# stops every later bar of this process for good.  A lock of threads is copied by a fork instead.
tqdm.set_lock(threading.RLock())

# What is imported and collected stays: searching it for garbage took a fifth of the collection.
gc.disable()

TESTS = Path(__file__).parent.resolve()
IMPORTED_ANYWAY = ("sympy", "pandas", "scipy.stats", "matplotlib.figure", "networkx")  # by others
MOST_WORKERS = 8  # each holds torch and a model or two
SILENCE = 400  # seconds without the start or end of a test: more than faulthandler_timeout
guards: list[subprocess.Popen[bytes]] = []
running: dict[str, None] = {}  # tests that have begun and not ended, of all workers


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


def pytest_configure(config: pytest.Config) -> None:
    """A worker that ends takes along all that it started, and the run bounds its silence."""
    if os.name != "posix":
        return
    if hasattr(config, "workerinput"):
        os.setpgid(0, 0)
        # The pipe closes at the end of this process, whatever ends it.
        guard = subprocess.Popen(
            ["sh", "-c", 'read line; kill -9 "-$0"', str(os.getpid())],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        guards.append(guard)
    elif config.getoption("numprocesses", None):
        signal.signal(signal.SIGALRM, give_up)
        config.pluginmanager.register(Silence())


def pytest_collection(session: pytest.Session) -> None:
    """Every second worker imports in another order: what one has compiled, the other only reads.

    In a fresh environment two workers that do the same at the same time compile everything twice.
    """
    config = session.config
    whole = [Path(argument).resolve() for argument in config.args] == [TESTS]
    if not (whole and hasattr(config, "workerinput")):
        return
    worker: str = config.workerinput["workerid"]
    if int(worker.removeprefix("gw")) % 2:
        files = sorted(TESTS.rglob("test_*.py"))
        paths = [file.relative_to(TESTS.parent).with_suffix("") for file in files]
        names = [".".join(path.parts) for path in paths]
        for name in (*IMPORTED_ANYWAY, *names[len(names) // 2 :]):
            # What cannot be imported is told when it is collected.
            with contextlib.suppress(Exception, pytest.skip.Exception):
                importlib.import_module(name)


def give_up(_: int, __: FrameType | None) -> None:
    names = " ".join(running) or "none, so a worker waits for tests"
    pytest.exit(f"No test began or ended in {SILENCE} s. Running: {names}", returncode=1)


class Silence:
    """End a run in which nothing happens: a test is bounded in its worker, a worker is not."""

    def pytest_sessionstart(self) -> None:
        signal.alarm(SILENCE)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        running[nodeid] = None
        signal.alarm(SILENCE)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        running.pop(nodeid, None)
        signal.alarm(SILENCE)

    def pytest_unconfigure(self) -> None:
        signal.alarm(0)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The fast subset has the first and the middle case of each test that is not in `slow.txt`;
    tests that fork a process are left out, because the first waits for what is forked.

    The longest tests begin first, so that no worker is left with one at the end.  Those that fork a
    process begin the second half, which xdist gives to another worker: one process that imports
    everything is enough.
    """
    items.sort(key=lambda item: item.get_closest_marker("long") is None)
    forking = [item for item in items if forks_a_process(item)]
    middle = (len(items) + 1) // 2
    items[:] = [item for item in items if not forks_a_process(item)]
    items[middle:middle] = forking
    cases: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        cases[item.nodeid.partition("[")[0]].append(item)
    slow = slow_tests()
    for test, same in cases.items():
        left_out = test in slow or forks_a_process(same[0])
        kept = set[int]() if left_out else {0, len(same) // 2}
        for index, item in enumerate(same):
            if index not in kept:
                item.add_marker(pytest.mark.slow)


def forks_a_process(item: pytest.Item) -> bool:
    return isinstance(item, pytest.Function) and not {"forks", "bare"}.isdisjoint(item.fixturenames)


def pytest_collection_finish() -> None:
    """Keep what was collected out of every later search for garbage, and search seldom."""
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)
    gc.enable()


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """Commands as processes of their own, each of which starts in milliseconds."""
    forks = Forks()
    yield forks
    forks.close()


@pytest.fixture(scope="session")
def bare() -> Iterator[Forks]:
    """Programs as processes of their own that have imported torch alone; see `tests/bare.py`."""
    forks = Forks("tests.bare.import_torch")
    yield forks
    forks.close()


@pytest.fixture(scope="session")
def tiny_llada(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a LLaDA checkpoint of a few kilobytes, with random weights and a tokenizer."""
    from tests.tiny import save_tiny_llada

    return save_tiny_llada(tmp_path_factory.mktemp("models") / "tiny")

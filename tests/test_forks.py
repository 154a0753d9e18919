"""A fork of the forking process is a process like any other: many threads compute at once."""

from __future__ import annotations

import threading

import torch

from tests.forks import Forks

THREADS = 4


def begin_at_once() -> None:
    """Compute in several new threads at once, and end with the number of those that fell."""
    fallen: list[BaseException] = []
    together = threading.Barrier(THREADS)

    def compute() -> None:
        together.wait()
        try:
            torch.ones(1 << 18).add_(1).sum()
        except RuntimeError as error:
            fallen.append(error)

    threads = [threading.Thread(target=compute) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    raise SystemExit(len(fallen))


def test_threads_of_a_fork_may_all_begin_at_once(forks: Forks) -> None:
    running = [forks.call(begin_at_once) for _ in range(4)]
    assert [fork.ended(30)[0] for fork in running] == [0, 0, 0, 0]

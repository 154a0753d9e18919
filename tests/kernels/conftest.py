"""Triton's cache in a folder of the tests, with the compiler; a process with the interpreter."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.forks import Forks


@pytest.fixture(scope="module")
def triton_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
        patch.delenv("TRITON_INTERPRET", raising=False)
        yield


@pytest.fixture(scope="session")
def interpreter() -> Iterator[Forks]:
    """Processes that run kernels in Triton's interpreter."""
    prepare = "tests.kernels.interpreter_process.prepare"
    forks = Forks(prepare, TRITON_INTERPRET="1", CUDA_VISIBLE_DEVICES="")
    yield forks
    forks.close()

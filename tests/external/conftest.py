"""Finds the real models, or skips with the command that installs them; downloads nothing.

With `DLM_EXTERNAL` set, the prepared checkpoints stay in its folder `prepared` for the next run.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from dlm_eval.external import antiberty, smollm2
from dlm_eval.external.packages import PackageMissing, extra_folder


def shared(factory: pytest.TempPathFactory) -> Path:
    """One folder for all workers of pytest-xdist, each of which has its own inside it."""
    own = factory.getbasetemp()
    return (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "external"


def prepared(name: str, prepare: Callable[[Path], Path], factory: pytest.TempPathFactory) -> Path:
    extra = extra_folder()
    base = shared(factory) if extra is None else extra / "prepared"
    try:
        return prepare(base / name)
    except PackageMissing as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def antiberty_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared("antiberty", antiberty.prepare, tmp_path_factory)


@pytest.fixture(scope="session")
def smollm2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared("smollm2", smollm2.prepare, tmp_path_factory)

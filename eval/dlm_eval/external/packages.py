"""Finds files that other Python packages ship, without importing or downloading anything.

A package counts as present if it is installed, or if it lies in the folder that the environment
variable `DLM_EXTERNAL` names:

    pip install --no-deps --target "$DLM_EXTERNAL" antiberty==0.1.3
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from filelock import FileLock

from dlm_sampling.errors import UsageError

VARIABLE = "DLM_EXTERNAL"


class PackageMissing(FileNotFoundError):
    """A model's package is not on this machine; the message has the command that installs it."""


def extra_folder() -> Path | None:
    """Return the folder that `DLM_EXTERNAL` names, or None."""
    named = os.environ.get(VARIABLE)
    return Path(named).expanduser() if named else None


def find_package(name: str, install: str) -> Path:
    """Return the folder of a package.

    Args:
        name: name of the package as it is imported.
        install: what follows `pip install --no-deps`; the error message shows it.

    Raises:
        PackageMissing: it is neither installed nor in the folder that `DLM_EXTERNAL` names.
    """
    spec = find_spec(name)
    if spec is not None and spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    extra = extra_folder()
    if extra is not None and (extra / name).is_dir():
        return extra / name
    where = "not set" if extra is None else f"{str(extra)!r}, which does not hold it"
    raise PackageMissing(
        f"package {name} is not installed, and {VARIABLE} is {where}. "
        f"Run: pip install --no-deps {install}"
    )


@contextmanager
def importable(package: Path) -> Iterator[None]:
    """Make the package in this folder importable for the time of a `with` block."""
    parent = str(package.parent)
    sys.path.append(parent)
    try:
        yield
    finally:
        sys.path.remove(parent)


def check_target(folder: Path) -> None:
    """Refuse a folder that exists and is no checkpoint, which `write_once` would take for one.

    Raises:
        UsageError: it is such a folder, or a file.
    """
    if folder.exists() and not (folder / "config.json").is_file():
        raise UsageError(f"{folder}: exists and is no checkpoint; name a new folder.")


def write_once(folder: Path, write: Callable[[Path], None]) -> Path:
    """Let one process fill a folder, which takes its name when it is finished.

    A reader never sees half a checkpoint.  Other processes that want the same folder wait.

    Args:
        folder: the folder to make; one that exists is taken as finished.
        write: fills the empty folder that it is given; if it fails, nothing stays.

    Returns:
        The folder.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / f".{folder.name}.lock"):
        if folder.is_dir():
            return folder
        unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            write(unfinished)
            unfinished.chmod(0o755)
            unfinished.rename(folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return folder

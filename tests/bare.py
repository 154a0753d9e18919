"""Programs that import a copy of the sources, or ask what an import imports, without a new torch.

They are forks of one process that has imported torch and nothing else: neither this library, nor
what it uses beside torch.  Importing torch takes longer than all that these programs do.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.forks import ROOT, Forks

SOURCES = [str(ROOT / folder) for folder in ("", "kernels", "eval")]


def import_torch() -> None:
    """Import torch, on one thread."""
    import torch

    torch.set_num_threads(1)


def be_program(code: str, folder: str, paths: Sequence[str], *words: str) -> None:
    """Be `PYTHONPATH=PATHS python -c CODE WORDS` in a folder; nothing but torch is imported."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
        del sys.modules[name]
    for name in [name for name in os.environ if name.startswith("DLM_")]:
        del os.environ[name]
    installed = [path for path in sys.path if path and path not in SOURCES]
    sys.path[:] = ["", *paths, *installed]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    os.chdir(folder)
    sys.argv = ["-c", *words]
    exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})


def run(
    bare: Forks, code: str, folder: Path, paths: Sequence[Path], *words: str, **environment: str
) -> tuple[int, str, str]:
    """Return exit code, standard output and standard error of `be_program`."""
    places = [str(path) for path in paths]
    fork = bare.call(be_program, code, str(folder), places, *words, env=environment)
    code_of_exit, out, err = fork.ended(250)
    return code_of_exit, out.decode(), err.decode()

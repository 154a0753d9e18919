"""Name the code that a refusal belongs to: a later version may accept what this one refuses."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import transformers

import dlm_eval
import dlm_sampling
from dlm_sampling.types import Sampler


def code_digest(samplers: Iterable[Sampler[Any]]) -> str:
    """Return 12 hexadecimal digits of the code that runs samplers.

    They change with any module of this library, with the modules that define the samplers, and with
    the versions of torch and transformers.
    """
    packages = [Path(str(package.__file__)).parent for package in (dlm_sampling, dlm_eval)]
    files = {path for package in packages for path in package.rglob("*.py")}
    files |= {Path(inspect.getfile(type(sampler))) for sampler in samplers}
    found = hashlib.sha256(f"{torch.__version__} {transformers.__version__}".encode())
    for path in sorted(files):
        found.update(path.read_bytes() + b"\0")
    return found.hexdigest()[:12]

"""The process whose forks run kernels in Triton's interpreter.

The interpreter must be chosen before triton is first imported, and it would break every other use
of triton in a process.
"""

from __future__ import annotations

import importlib
import sys

NEEDED = (
    "dlm_kernels.operators",
    "dlm_sampling.engine.sample",
    "dlm_sampling.samplers",
    "pytest",
    "tests.kernels.quick_interpreter",
    "torch._dynamo",
    "torch._subclasses.fake_tensor",
    "torch.testing._internal.optests",
)


def prepare() -> None:
    """Import what the checks need."""
    for name in NEEDED:
        importlib.import_module(name)


def run_checks(*files: str) -> None:
    """Run some of the checks in `interpreted/`."""
    import pytest

    sys.exit(pytest.main(["-q", "-n0", "-p", "no:cacheprovider", *files]))

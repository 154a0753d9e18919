"""Stands in for a CUDA graph where there is no GPU: repeats a step, and finds what would break it.

A graph replays the device's work and none of the host's.  So a step must not read a value of a
tensor on the host, make a tensor whose shape depends on values, or copy numbers from the host.
The kernels are one operator each on a GPU, whatever their torch twins do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from dlm_sampling import ops
from dlm_sampling.ops import _dispatch

ASKS = {
    "aten::_local_scalar_dense": "reads a value on the host",
    "aten::nonzero": "makes a shape of values",
    "aten::masked_select": "makes a shape of values",
    "aten::_unique2": "makes a shape of values",
    "aten::unique_dim": "makes a shape of values",
    "aten::repeat_interleave.Tensor": "makes a shape of values",
    "aten::equal": "reads a value on the host",
    "aten::is_nonzero": "reads a value on the host",
    "aten::lift_fresh": "copies numbers from the host",
    "aten::lift_fresh_copy": "copies numbers from the host",
    "aten::bincount": "makes a shape of values",
}
INDEXING = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_")


class CannotRecordError(AssertionError):
    """A step did what a CUDA graph cannot hold."""


class _Recorder(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        full = f"{name}.{func._overloadname}" if func._overloadname else name
        problem = ASKS.get(full) or ASKS.get(name)
        if name in INDEXING:
            listed = [i for i in args[1] if i is not None]
            if any(i.dtype in (torch.bool, torch.uint8) for i in listed):
                problem = "makes a shape of values"
        if problem is not None:
            raise CannotRecordError(f"{full} {problem}")
        return func(*args, **(kwargs or {}))


def recorder(step: Callable[[], None]) -> Callable[[], None]:
    """A step that may only do what a CUDA graph holds; in the place of `engine.graph.record`.

    As there, the step runs freely before it counts, so that tables are made.
    """
    with opaque_kernels():
        step()

    def repeat() -> None:
        with opaque_kernels(), _Recorder():
            step()

    return repeat


def steps_only_on_the_device(step: Callable[[], None]) -> Callable[[], None]:
    """As `recorder`, with whatever implements the operators in place."""
    step()

    def repeat() -> None:
        with _Recorder():
            step()

    return repeat


@contextmanager
def opaque_kernels() -> Iterator[None]:
    """Every op that has a kernel runs its torch twin as one operator, hidden from a recorder."""

    def find(name: str, device: Any, *facts: Any, confirmed: bool) -> tuple[Any, str]:
        twin = getattr(ops, name)

        def run(*args: Any, **kwargs: Any) -> Any:
            check = kwargs.pop("check", True)
            if name in ("draw", "log_probs", "log_prob_of"):
                kwargs["check"] = check
            assert not check, f"{name} checks values, which waits for the device"
            with _disable_current_modes(), pytest.MonkeyPatch.context() as inner:
                inner.setenv("DLM_KERNELS", "torch")
                return twin(*args, **kwargs)

        return run, ""

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DLM_KERNELS", "triton")
        patch.setattr(_dispatch, "_find", find)
        yield

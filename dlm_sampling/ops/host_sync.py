"""Say whether an operator may wait for the GPU to validate values.

Steps recorded as a CUDA graph switch it off: a graph cannot record the host's wait for the device.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

from dlm_sampling.types.values import some

_sync_allowed: ContextVar[bool] = ContextVar("sync_allowed", default=True)


def sync_allowed() -> bool:
    """Return whether operators may synchronise with the device, as checks of values do."""
    return _sync_allowed.get()


def any_or_assume(mask: Tensor) -> bool:
    """Return whether any entry of `mask` is set, or True where synchronising is not allowed.

    For work that changes nothing where the mask is empty, and is skipped there to save time.
    """
    return some(mask) if sync_allowed() else True


@contextmanager
def without_sync() -> Generator[None]:
    """Forbid synchronisation inside the context: no values are checked; the caller checks results.

    Nested contexts restore the setting that they found.
    """
    token = _sync_allowed.set(False)
    try:
        yield
    finally:
        _sync_allowed.reset(token)

"""Whether operators may ask the device what a tensor holds, to refuse NaN and the like at once.

Asking makes the host wait, which a CUDA graph cannot record.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

_may_ask: ContextVar[bool] = ContextVar("may_ask", default=True)


def may_ask() -> bool:
    """Whether operators may wait for the device to check values."""
    return _may_ask.get()


def any_of(mask: Tensor) -> bool:
    """Whether any entry of `mask` is set; True where that may not be asked.

    For work that changes nothing where the mask is empty, and is skipped there to save time.
    """
    return bool(mask.any()) if may_ask() else True


@contextmanager
def unasked() -> Generator[None]:
    """Operators inside check no values; the caller looks at their results instead."""
    token = _may_ask.set(False)
    try:
        yield
    finally:
        _may_ask.reset(token)

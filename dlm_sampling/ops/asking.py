"""Whether operators may ask the device what a tensor holds, to refuse NaN and the like at once.

Asking makes the host wait, which a CUDA graph cannot record.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar

_may_ask: ContextVar[bool] = ContextVar("may_ask", default=True)


def may_ask() -> bool:
    """Whether operators may wait for the device to check values."""
    return _may_ask.get()


@contextmanager
def unasked() -> Generator[None]:
    """Operators inside check no values; the caller looks at their results instead."""
    token = _may_ask.set(False)
    try:
        yield
    finally:
        _may_ask.reset(token)

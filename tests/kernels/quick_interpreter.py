"""Makes Triton's interpreter several times faster; the results are the same.

Import this after TRITON_INTERPRET is set.  The interpreter

- replaces the functions of `triton.language` at every call of a device function, of which a kernel
  makes hundreds, though within a launch the first replacement still holds;
- computes the conditions of overflow checks, and drops them unless `debug` is set;
- builds a table of all data types for each look-up in it.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import triton.language as tl
from triton.runtime import interpreter

_patch: Any = interpreter._patch_lang
_Scope: Any = interpreter._LangPatchScope
_EVERYTHING = SimpleNamespace(__globals__={"tl": tl, "core": tl.core})


class _Launch:
    """The replaced functions of the launch that runs now."""

    running = False

    def __init__(self) -> None:
        self.scope = _patch(_EVERYTHING)
        _Launch.running = True

    def restore(self) -> None:
        _Launch.running = False
        self.scope.restore()


def patch_once(function: Any) -> Any:
    """Replace the functions of the language at the beginning of a launch, not inside of one."""
    return _Scope() if _Launch.running else _Launch()


_numpy_type: Any = functools.cache(interpreter._get_np_dtype)


def numpy_type(kind: Any) -> Any:
    """Return the numpy type of a data type, or of the elements of a block."""
    element = kind.element_ty if isinstance(kind, tl.block_type) else kind
    return _numpy_type(tl.uint64 if isinstance(element, tl.pointer_type) else element)


builder: Any = interpreter.interpreter_builder
assert not builder.options.debug
builder.options = replace(builder.options, sanitize_overflow=False)
interpreter._patch_lang = patch_once
interpreter._get_np_dtype = numpy_type

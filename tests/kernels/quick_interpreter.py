"""Makes Triton's interpreter several times faster; the results are the same.

Import this after TRITON_INTERPRET is set.  The interpreter

- replaces the functions of `triton.language` at every call of a device function, of which a kernel
  makes hundreds, though within a launch the first replacement still holds;
- computes the conditions of overflow checks, and drops them unless `debug` is set;
- builds a table of all data types for each look-up in it;
- makes the shape of every value, and most of its types, as new objects, and broadcasts blocks of
  one shape to that shape;
- calls the function of a reduction or scan for one element after another.  Here it is called for
  whole blocks, as on a GPU: of neighbours in a tree, which an associative function allows.
"""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
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


Tensor: Any = tl.core.tensor
Block: Any = tl.block_type
broadcast: Any = interpreter.interpreter_semantic.broadcast_impl_value
_shapes: dict[tuple[int, ...], tuple[Any, Any]] = {}
_blocks: dict[tuple[tuple[int, ...], Any], Any] = {}


def make_value(self: Any, handle: Any, kind: Any) -> None:
    """Make a value whose shape is shared with the others of that shape; a shape never changes."""
    shape = tuple(kind.shape.values) if isinstance(kind, Block) else ()
    if shape not in _shapes:
        whole = tl.tuple([tl.constexpr(size) for size in shape])
        _shapes[shape] = whole, tl.constexpr(math.prod(shape))
    self.shape, self.numel = _shapes[shape]
    self.handle, self.type, self.dtype = handle, kind, kind.scalar


def with_element_type(self: Any, element: Any) -> Any:
    """Return the type of a block of this shape; pointers have many types, so are not kept."""
    if isinstance(element, tl.pointer_type):
        return Block(element, self.shape)
    place = tuple(self.shape.values), element
    if place not in _blocks:
        _blocks[place] = Block(element, self.shape)
    return _blocks[place]


def broadcast_unlike(left: Any, right: Any) -> tuple[Any, Any]:
    """Broadcast two values; two of one shape are done."""
    return (left, right) if left.shape is right.shape else broadcast(left, right)


def combine(operation: Any, kinds: list[Any], left: list[Any], right: list[Any]) -> list[Any]:
    """Combine two lists of arrays by the function of a reduction or scan."""
    blocks = [operation.to_tensor(x, kind) for x, kind in zip(left + right, kinds * 2, strict=True)]
    found = operation.combine_fn.fn(*blocks)
    return [block.handle.data for block in (found if isinstance(found, tuple) else (found,))]


def reduce_in_a_tree(self: Any, blocks: tuple[Any, ...]) -> list[Any]:
    """Reduce along one axis, half of it at a time."""
    kinds, axis = [block.dtype for block in blocks], self.axis
    data = [block.handle.data for block in blocks]
    while (width := data[0].shape[axis]) > 1:
        even, odd = ([x.take(range(first, width, 2), axis) for x in data] for first in (0, 1))
        data = combine(self, kinds, even, odd)
    if not self.keep_dims:
        data = [x.squeeze(axis) for x in data]
    return [self.to_tensor(x, kind) for x, kind in zip(data, kinds, strict=True)]


def scan_in_a_tree(self: Any, blocks: tuple[Any, ...]) -> list[Any]:
    """Scan along one axis: every element takes in those 1, 2, 4, ... before it."""
    kinds = [block.dtype for block in blocks]
    data = [block.handle.data for block in blocks]
    width, reach = data[0].shape[self.axis], 1
    place = np.arange(width).reshape([-1] + [1] * (data[0].ndim - 1 - self.axis))
    while reach < width:
        before = [np.roll(x, reach, self.axis) for x in data]
        both = combine(self, kinds, before, data)
        data = [np.where(place < reach, x, y) for x, y in zip(data, both, strict=True)]
        reach *= 2
    return [self.to_tensor(x, kind) for x, kind in zip(data, kinds, strict=True)]


builder: Any = interpreter.interpreter_builder
assert not builder.options.debug
builder.options = replace(builder.options, sanitize_overflow=False)
interpreter._patch_lang = patch_once
interpreter._get_np_dtype = numpy_type
interpreter.ReduceOps.generic_reduce = reduce_in_a_tree
interpreter.ScanOps.generic_scan = scan_in_a_tree
Tensor.__init__ = make_value
Block.with_element_ty = with_element_type
Block.to_ir = lambda self, builder: self
interpreter.interpreter_semantic.broadcast_impl_value = broadcast_unlike

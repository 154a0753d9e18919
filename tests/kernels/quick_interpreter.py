"""Makes Triton's interpreter several times faster; the results are the same.

Import this after TRITON_INTERPRET is set.  The interpreter

- replaces the functions of `triton.language` at every call of a device function, of which a kernel
  makes hundreds, though within a launch the first replacement still holds;
- calls every such function through two more, one that takes the semantics out of its arguments and
  puts them in, and one that looks whether they are there;
- computes the conditions of overflow checks, and drops them unless `debug` is set;
- builds a table of all data types for each look-up in it;
- makes the shape of every value, and most of its types, as new objects, and broadcasts blocks of
  one shape to that shape;
- works out for every operation on two values of one type which type they have in common, and makes
  the block of a constant such as the 1 of `x + 1` anew;
- calls the function of a reduction or scan for one element after another.  Here it is called for
  whole blocks, as on a GPU: of neighbours in a tree, which an associative function allows.
"""

from __future__ import annotations

import functools
import inspect
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import triton.language as tl
from triton._utils import validate_block_shape
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


def call_directly(owner: Any, name: str, member: Any, builder: Any, scope: Any) -> None:
    """Replace a function of the language by its inner one, which is given the semantics."""
    inner: Any = inspect.unwrap(member)

    def call(*arguments: Any, **options: Any) -> Any:
        options["_semantic"] = interpreter.interpreter_semantic
        return inner(*arguments, **options)

    scope.set_attr(owner, name, call)


Tensor: Any = tl.core.tensor
Block: Any = tl.block_type
Handle: Any = interpreter.TensorHandle
_unwrap: Any = tl.core._unwrap_if_constexpr
_in_common: Any = interpreter.interpreter_semantic.binary_op_type_checking_impl
_broadcast: Any = interpreter.interpreter_semantic.broadcast_impl_value
_shapes: dict[tuple[int, ...], tuple[Any, ...]] = {}
_blocks: dict[tuple[tuple[int, ...], str], Any] = {}
_joined: dict[tuple[tuple[int, ...], tuple[int, ...]], tuple[int, ...]] = {}
_constants: dict[tuple[Any, ...], np.ndarray[Any, Any]] = {}

NUMBERS = (
    tl.int1, tl.int8, tl.int16, tl.int32, tl.int64, tl.uint8, tl.uint16, tl.uint32, tl.uint64,
    tl.float16, tl.bfloat16, tl.float32, tl.float64,
)  # fmt: skip
BYTES = {kind.name: max(1, kind.primitive_bitwidth // 8) for kind in NUMBERS}
POINTER = 8
# Two values of one of these have it in common, in a division too; the small floats divide in fp32.
CLOSED = BYTES.keys() - {"fp16", "bf16"}
WHOLE = {name for name in CLOSED if "int" in name}


def unwrap(value: Any) -> Any:
    """Return what a constant holds; most values are none."""
    return value if type(value) is Tensor else _unwrap(value)


def same_type(self: Any, other: Any) -> bool:
    """Compare two data types by name; most are compared with themselves."""
    other = other if self is other else _unwrap(other)
    return self is other or (isinstance(other, tl.dtype) and self.name == other.name)


def make_handle(self: Any, data: Any, kind: Any, attr: Any = None) -> None:
    """Hold numbers that the type has room for."""
    if data.itemsize > BYTES.get(kind.name, POINTER):
        raise ValueError(f"numbers of {data.itemsize} bytes for {kind}")
    self.data, self.dtype, self.attr = data, kind, {} if attr is None else attr


def binary(self: Any, left: Any, right: Any, operation: Any) -> Any:
    """Compute, in the type of the left side."""
    found, kind = operation(left.data, right.data), left.dtype
    if found.itemsize > BYTES.get(kind.name, POINTER):
        found = found.astype(numpy_type(kind))
    return Handle(found, kind)


def shape_of(sizes: tuple[int, ...]) -> tuple[Any, ...]:
    """Return shape and size of a value, then of its type, which never change."""
    if sizes not in _shapes:
        size = validate_block_shape(sizes)
        whole = tl.tuple([tl.constexpr(size) for size in sizes])
        _shapes[sizes] = sizes, whole, tl.constexpr(size), tl.tuple(list(sizes)), size
    return _shapes[sizes]


def make_block(self: Any, element: Any, shape: Any) -> None:
    """Make the type of a block, whose shape is shared with the others of that shape."""
    given = shape.values if type(shape) is tl.tuple else shape
    sizes = tuple([size if type(size) is int else _unwrap(size) for size in given])
    if not sizes:
        raise TypeError("a block has an axis")
    self.element_ty = element
    self.sizes, self.value_shape, self.value_numel, self.shape, self.numel = shape_of(sizes)


def make_value(self: Any, handle: Any, kind: Any) -> None:
    """Make a value whose shape is shared with the others of that shape."""
    if type(kind) is Block:
        self.sizes, self.shape, self.numel = kind.sizes, kind.value_shape, kind.value_numel
    else:
        self.sizes, self.shape, self.numel, *_ = shape_of(())
    self.handle, self.type, self.dtype = handle, kind, kind.scalar


def block_of(element: Any, sizes: tuple[int, ...]) -> Any:
    """Return the type of a block; pointers have many types, so are not kept."""
    if type(element) is tl.pointer_type:
        return Block(element, sizes)
    place = sizes, element.name
    if place not in _blocks:
        _blocks[place] = Block(element, sizes)
    return _blocks[place]


def spread(value: Any, sizes: tuple[int, ...]) -> Any:
    """Broadcast a value to larger sizes."""
    if value.sizes == sizes:
        return value
    data, kind = value.handle.data, value.handle.dtype
    if value.sizes:
        data = np.broadcast_to(data, sizes)
    else:
        data = np.full(sizes, data, dtype=numpy_type(kind))
    return Tensor(Handle(data, kind), block_of(value.dtype, sizes))


def broadcast(left: Any, right: Any) -> tuple[Any, Any]:
    """Broadcast two values; two of one shape are done."""
    place = left.sizes, right.sizes
    if place[0] == place[1]:
        return left, right
    if place not in _joined:
        found = _broadcast(left, right)
        _joined[place] = found[0].sizes
        return found
    sizes = _joined[place]
    return spread(left, sizes), spread(right, sizes)


def in_common(left: Any, right: Any, *options: Any, **named: Any) -> tuple[Any, Any]:
    """Bring two values to one type and shape; blocks of constants are kept."""
    if type(left) is Tensor and type(right) is Tensor:
        name = left.dtype.name
        if name == right.dtype.name and name in CLOSED:
            return broadcast(left, right)
        pointers = type(left.dtype) is tl.pointer_type and options[:1] == (True,)
        if pointers and right.dtype.name in WHOLE:
            return broadcast(left, right)
        return _in_common(left, right, *options, **named)
    first = type(left) is Tensor
    value, number = (left, right) if first else (right, left)
    if type(value) is not Tensor or type(number) not in (int, float):
        return _in_common(left, right, *options, **named)
    kind = value.dtype
    place = kind.name, value.sizes, type(number), number, first, options, *named.values()
    if place not in _constants:
        found = _in_common(left, right, *options, **named)
        same, constant = found if first else found[::-1]
        if same is value and constant.dtype.name == kind.name in CLOSED:
            _constants[place] = constant.handle.data
            constant.handle.data.flags.writeable = False
        return found
    constant = Tensor(Handle(_constants[place], kind), value.type)
    return (value, constant) if first else (constant, value)


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
interpreter._patch_attr = call_directly
interpreter._get_np_dtype = numpy_type
interpreter.ReduceOps.generic_reduce = reduce_in_a_tree
interpreter.ScanOps.generic_scan = scan_in_a_tree
interpreter.InterpreterBuilder.binary_op = binary
interpreter.interpreter_semantic.broadcast_impl_value = broadcast
interpreter.interpreter_semantic.binary_op_type_checking_impl = in_common
Handle.__init__ = make_handle
Tensor.__init__ = make_value
Block.__init__ = make_block
Block.name = property(lambda self: f"<{self.shape}, {self.element_ty}>")
Block.with_element_ty = lambda self, element: block_of(element, self.sizes)
Block.to_ir = lambda self, builder: self
tl.dtype.__eq__ = same_type
tl.core._unwrap_if_constexpr = unwrap

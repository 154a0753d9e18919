"""Enumerates the small faults, called mutants, that can be planted in a source file.

A mutant changes one expression inside one function: a comparison by one, an arithmetic operator,
a constant by one, a negated condition, a dropped `not`, minus or term, a minimum for a maximum.
Annotations, decorators, default values, error messages and asserts stay as they are.
"""

from __future__ import annotations

import ast
import copy
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
    ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.BitXor: ast.BitAnd,
    ast.LShift: ast.RShift, ast.RShift: ast.LShift,
}  # fmt: skip
PAIRS = (
    ("min", "max"), ("amin", "amax"), ("argmin", "argmax"), ("minimum", "maximum"),
    ("clamp_min", "clamp_max"), ("any", "all"), ("zeros", "ones"), ("floor", "ceil"),
    ("zeros_like", "ones_like"), ("log", "exp"), ("log1p", "expm1"),
)  # fmt: skip
SWAPS = {a: b for pair in PAIRS for a, b in (pair, pair[::-1])}
HAS_TERMS = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.BitAnd, ast.BitOr)
LEFT_ALONE = (ast.Raise, ast.Assert, ast.JoinedStr)
NOT_RUN = frozenset({"annotation", "returns", "decorator_list", "args"})
"""Fields of a function or an assignment that are not run when the function is called."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Mutant:
    """One fault.

    Fields:
        line: line of the source file.
        function: qualified name of the outermost function around it, such as `LLaDA.step`.
        first_line: first line of that function, decorators included.
        what: the change, for example `n < k -> n <= k`; unique within the function.
        place: number of the changed expression in the order of `places`.
        variant: number of the change in the order of `variants`.
    """

    line: int
    function: str
    first_line: int
    what: str
    place: int
    variant: int

    @property
    def name(self) -> str:
        """Name it within its file; lines that move do not change the name."""
        return f"{self.function}: {self.what}"


@dataclass(frozen=True)
class Place:
    """An expression that can be exchanged, and the field that holds it."""

    node: ast.expr
    holder: ast.AST
    field: str
    index: int | None
    function: str
    first_line: int

    def put(self, node: ast.expr) -> None:
        """Exchange the expression."""
        if self.index is None:
            setattr(self.holder, self.field, node)
        else:
            getattr(self.holder, self.field)[self.index] = node


def variants(place: Place) -> Iterator[ast.expr]:
    """Yield the expressions that may stand instead of the one at this place."""
    node = place.node
    if place.field == "test" and not isinstance(node, ast.Compare):
        yield ast.UnaryOp(ast.Not(), node)
    match node:
        case ast.Compare(left, [op], right) if type(op) in COMPARISONS:
            yield ast.Compare(left, [COMPARISONS[type(op)]()], right)
        case ast.BinOp(left, op, right):
            if type(op) in ARITHMETIC:
                yield ast.BinOp(left, ARITHMETIC[type(op)](), right)
            if isinstance(op, HAS_TERMS):
                yield left
        case ast.BoolOp(op, values):
            yield ast.BoolOp(ast.Or() if isinstance(op, ast.And) else ast.And(), values)
            yield values[0] if len(values) == 2 else ast.BoolOp(op, values[:-1])
        case ast.UnaryOp(ast.Not() | ast.USub() | ast.Invert(), operand):
            yield operand
        case ast.Constant(bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(int(value) | float(value)):
            yield ast.Constant(value + 1)
            yield ast.Constant(value - 1)
        case ast.Call(ast.Name(name), arguments, keywords) if name in SWAPS:
            yield ast.Call(ast.Name(SWAPS[name], ast.Load()), arguments, keywords)
        case ast.Call(ast.Attribute(value, name), arguments, keywords) if name in SWAPS:
            swapped = ast.Attribute(value, SWAPS[name], ast.Load())
            yield ast.Call(swapped, arguments, keywords)
        case _:
            pass


def places(tree: ast.Module) -> Iterator[Place]:
    """Yield the expressions of all functions, always in the same order."""
    yield from _inside(tree, (), None)


def _inside(node: ast.AST, scope: tuple[str, ...], first_line: int | None) -> Iterator[Place]:
    """Yield the expressions below a node; `first_line` is None outside of functions."""
    skipped = NOT_RUN if isinstance(node, Function | ast.AnnAssign) else frozenset[str]()
    for field, value in ast.iter_fields(node):
        if field in skipped:
            continue
        for index, child in enumerate(value) if isinstance(value, list) else ((None, value),):
            if not isinstance(child, ast.AST) or isinstance(child, LEFT_ALONE):
                continue
            if first_line is not None and isinstance(child, ast.expr):
                yield Place(child, node, field, index, ".".join(scope), first_line)
            if first_line is None and isinstance(child, Function):
                begin = min([child.lineno, *(d.lineno for d in child.decorator_list)])
                yield from _inside(child, (*scope, child.name), begin)
            elif first_line is None and isinstance(child, ast.ClassDef):
                yield from _inside(child, (*scope, child.name), None)
            elif first_line is not None:
                yield from _inside(child, scope, first_line)


def mutants(source: str) -> list[Mutant]:
    """List all mutants of a source file."""
    found: list[Mutant] = []
    seen: Counter[tuple[str, str]] = Counter()
    for number, place in enumerate(places(ast.parse(source))):
        for variant, node in enumerate(variants(place)):
            what = f"{ast.unparse(place.node)} -> {ast.unparse(node)}"
            seen[place.function, what] += 1
            count = seen[place.function, what]
            found.append(
                Mutant(
                    line=place.node.lineno, function=place.function, first_line=place.first_line,
                    what=what if count == 1 else f"{what} (number {count})", place=number,
                    variant=variant,
                )
            )  # fmt: skip
    return found


def planted(source: str, mutant: Mutant) -> ast.Module:
    """Return the tree of the source file with this fault in it."""
    tree = ast.parse(source)
    place = list(places(tree))[mutant.place]
    new = copy.deepcopy(list(variants(place))[mutant.variant])
    place.put(ast.copy_location(new, place.node))
    return ast.fix_missing_locations(tree)

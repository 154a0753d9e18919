"""Read the names of the samplers' parameters from their source, as importing them imports torch.

An unknown option is told at once, whether it is misspelt or belongs to `--set`.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

_SOURCES = Path(__file__).resolve().parent.parent / "samplers"


@cache
def parameter_names() -> frozenset[str]:
    """Return the names of all parameters of the samplers that this library registers."""
    own: dict[str, set[str]] = {}  # of each class and function
    bases: dict[str, list[str]] = {}
    registered: list[str] = []
    for path in _SOURCES.rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            match node:
                case ast.ClassDef(name=name):
                    data = any(ast.unparse(d).startswith("dataclass") for d in node.decorator_list)
                    own[name] = set(_fields(node)) if data else set()
                    bases[name] = [_name(base) for base in node.bases]
                case ast.FunctionDef(name=name, args=args):
                    own[name] = {each.arg for each in [*args.args, *args.kwonlyargs]}
                case ast.Expr(ast.Call(func=ast.Name("register"), args=[_, ast.Name(name)])):
                    registered.append(name)
                case _:
                    pass
    found, waiting = set[str](), registered
    for name in waiting:  # grows while it is read
        found |= own.get(name, set())
        waiting.extend(bases.get(name, ()))
    return frozenset(found)


def _fields(node: ast.ClassDef) -> list[str]:
    """Return the fields of a dataclass, without the variables of its class."""
    return [
        line.target.id
        for line in node.body
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
        if not ast.unparse(line.annotation).startswith("ClassVar")
    ]


def _name(base: ast.expr) -> str:
    """Return the name of a base class, without its parameters."""
    return ast.unparse(base.value if isinstance(base, ast.Subscript) else base)

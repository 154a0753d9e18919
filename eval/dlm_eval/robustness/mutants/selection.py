"""Finds the tests that belong to a source file of the library.

They are the files of its name, `tests/<folder>/test_<stem>*.py`, and the parity cases of the
samplers that it registers.  Samplers whose file has no tests of its name have their cases of the
contract, and the tests of `tests/samplers` that name their class.  A shared part of samplers has
the tests of the first three samplers that import it; other files without tests of their name have
those of their folder, such as all of `tests/samplers/lsd`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

PARTS = ("ops", "processes", "prediction", "likelihood", "samplers")
CONTRACT, PARITY = "tests/test_contract.py", "tests/test_parity_samplers.py"
OF_LAWS = ("tests/test_parity_laws.py", "tests/test_laws_by_sampling.py")
REST = ("tests/samplers/test_registry.py", "tests/samplers/test_contract.py")
MOST_IMPORTERS = 3
USED = ("samplers", "parts")
"""Folders of samplers whose files are judged by the tests of the samplers that import them."""


@dataclass(frozen=True)
class Selection:
    """Tests of one source file.

    Fields:
        files: whole files and folders.
        parity: values of the argument `sampler` of the parity cases that count.
        contract: names of the samplers whose cases of the contract count.
    """

    files: tuple[str, ...]
    parity: tuple[str, ...] = ()
    contract: tuple[str, ...] = ()

    @property
    def arguments(self) -> tuple[str, ...]:
        """Return the paths for pytest."""
        more = [path for path, names in ((PARITY, self.parity), (CONTRACT, self.contract)) if names]
        return (*self.files, *more)

    def takes(self, item: pytest.Item) -> bool:
        """Whether a collected test belongs to the file."""
        of_sampler = {PARITY: ("sampler", self.parity), CONTRACT: ("name", self.contract)}
        argument, names = of_sampler.get(item.nodeid.partition("::")[0], ("", ()))
        if not argument:
            return True
        assert isinstance(item, pytest.Function)
        return hasattr(item, "callspec") and item.callspec.params.get(argument) in names


def sources(root: Path) -> list[Path]:
    """List the source files that have functions, relative to the root of the repository."""
    found = [p for part in PARTS for p in sorted((root / "dlm_sampling" / part).rglob("*.py"))]
    return [p.relative_to(root) for p in found if "def " in p.read_text(encoding="utf-8")]


def registered(tree: ast.Module) -> dict[str, str]:
    """Return the names that a module registers samplers under, with their classes."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        match node:
            case ast.Call(ast.Name("register"), [ast.Constant(str(name)), ast.Name(kind), *_]):
                found[name] = kind
            case _:
                pass
    return found


def naming(folder: Path, pattern: str, kinds: Iterable[str]) -> list[Path]:
    """List the files of a folder that name one of these classes."""
    word = re.compile(rf"\b({'|'.join(kinds)})\b")
    return [p for p in sorted(folder.glob(pattern)) if word.search(p.read_text(encoding="utf-8"))]


def mirrors(root: Path, source: Path) -> list[str]:
    """List the test files of a source file's name."""
    folder = root / "tests" / source.parent.relative_to("dlm_sampling")
    stem = source.stem.lstrip("_")
    found = [*folder.glob(f"test_{stem}.py"), *sorted(folder.glob(f"test_{stem}_*.py"))]
    return [str(path.relative_to(root)) for path in found]


def importers(root: Path, source: Path) -> list[Path]:
    """List the samplers that import a module."""
    module = ".".join(source.with_suffix("").parts)
    return [
        path.relative_to(root)
        for path in sorted((root / "dlm_sampling" / "samplers").glob("*.py"))
        if f"from {module} import" in path.read_text(encoding="utf-8")
    ]


def selection(root: Path, source: Path) -> Selection:
    """Return the tests of a source file."""
    files = mirrors(root, source)
    kinds = registered(ast.parse((root / source).read_text(encoding="utf-8")))
    contract = () if files else tuple(kinds)
    if kinds and not files:
        suites = naming(root / "tests" / "samplers", "test_*.py", kinds.values())
        files = [str(p.relative_to(root)) for p in suites]
    elif not files and source.parts[1] == "samplers" and source.parent.name in USED:
        for user in importers(root, source)[:MOST_IMPORTERS]:
            files += mirrors(root, user)
            kinds |= registered(ast.parse((root / user).read_text(encoding="utf-8")))
    elif not files:
        folder = Path("tests") / source.parent.relative_to("dlm_sampling")
        files = [str(p.relative_to(root)) for p in sorted((root / folder).glob("test_*.py"))]
        files += OF_LAWS if source.parts[1] == "processes" else ()
    parity = naming(root / "tests" / "parity", "*.py", kinds.values()) if kinds else []
    return Selection(tuple(dict.fromkeys(files or REST)), tuple(p.stem for p in parity), contract)

"""The dependency direction and the house rules, read from the syntax trees; nothing is imported."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = ROOT / "dlm_sampling"

# A folder (or a module of the root) imports only what stands on its own line or further up; parts
# of one line that are listed apart import each other only where PEERS_MAY says so.
RANKS: list[set[str]] = [
    {"types", "errors", "embedded"},
    {"ops"},
    {"schedules", "processes"},
    {"denoisers"},
    {"samplers"},
    {"prediction"},
    {"engine", "text", "likelihood"},
    {"testing", "viewers", "learn", "checkup"},
    {"cli", "__main__"},
]
PEERS_MAY = RANKS[0] | RANKS[6] | RANKS[7] | RANKS[8]
MAY_IMPORT_TRANSFORMERS = {"denoisers"}
MAY_IMPORT_KERNELS = {"dlm_sampling.ops._dispatch"}
MAY_PRINT = {"dlm_sampling.cli.app", "dlm_sampling.cli.exits"}
GLOBAL_RANDOM = {"rand", "randn", "randint", "randperm", "multinomial", "bernoulli", "normal"}
LONGEST_MODULE = 400


def sources(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*.py") if "__pycache__" not in p.parts)


def module_name(path: Path, base: Path) -> str:
    parts = path.relative_to(base).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def is_module(dotted: str) -> bool:
    path = ROOT.joinpath(*dotted.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def imports(path: Path, base: Path, *, at_import_only: bool = False) -> Iterator[str]:
    """Dotted names that a file imports; `at_import_only` leaves out functions and TYPE_CHECKING."""
    nodes = at_import(tree(path).body) if at_import_only else ast.walk(tree(path))
    package = module_name(path, base).split(".")
    package = package if path.name == "__init__.py" else package[:-1]
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            anchor = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*anchor, *([node.module] if node.module else [])])
            for alias in node.names:
                deeper = f"{origin}.{alias.name}"
                yield deeper if origin.startswith("dlm_") and is_module(deeper) else origin


def at_import(body: list[ast.stmt]) -> Iterator[ast.AST]:
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.If | ast.Try | ast.ClassDef):
            yield from at_import([n for n in ast.iter_child_nodes(node) if isinstance(n, ast.stmt)])
        yield node


def part(dotted: str) -> str:
    """The part of the library that a module belongs to: "ops" for dlm_sampling.ops.philox."""
    return dotted.split(".")[1] if "." in dotted else ""


def rank(name: str) -> int:
    return next((i for i, parts in enumerate(RANKS) if name in parts), -1)


FILES = [p for p in sources(LIBRARY) if p != LIBRARY / "__init__.py"]


def where(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_every_part_has_a_rank() -> None:
    unknown = {part(module_name(p, ROOT)) for p in FILES} - set().union(*RANKS)
    assert not unknown, f"add {sorted(unknown)} to RANKS in this test, at the right height"


@pytest.mark.parametrize("path", FILES, ids=where)
def test_dependency_direction(path: Path) -> None:
    mine = part(module_name(path, ROOT))
    for name in imports(path, ROOT):
        if name.split(".")[0] != "dlm_sampling":
            continue
        theirs = part(name)
        if not theirs:  # `from dlm_sampling import X`: the public names, for the command line only
            assert mine in RANKS[-1], f"{where(path)} imports from the package root"
            continue
        assert rank(theirs) <= rank(mine), f"{where(path)} ({mine}) imports {name}"
        if rank(theirs) == rank(mine) and theirs != mine:
            assert mine in PEERS_MAY, f"{where(path)}: {mine} and {theirs} do not know each other"


def test_no_import_cycle() -> None:
    names = {module_name(p, ROOT): p for p in FILES}
    graph = {
        name: {n for n in imports(path, ROOT, at_import_only=True) if n in names and n != name}
        for name, path in names.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"modules import each other: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("path", sources(LIBRARY), ids=where)
def test_transformers_and_kernels_stay_behind_their_doors(path: Path) -> None:
    module = module_name(path, ROOT)
    for name in imports(path, ROOT):
        top = name.split(".")[0]
        if top == "transformers":
            assert part(module) in MAY_IMPORT_TRANSFORMERS, f"{where(path)} imports transformers"
        assert top != "triton", f"{where(path)} imports triton; that belongs to kernels/"
        assert top != "dlm_eval", f"{where(path)} imports dlm_eval"
        if top == "dlm_kernels":
            assert module in MAY_IMPORT_KERNELS, f"{where(path)} imports dlm_kernels"
    if module in MAY_IMPORT_KERNELS:
        eager = {n.split(".")[0] for n in imports(path, ROOT, at_import_only=True)}
        assert "dlm_kernels" not in eager, "the kernels are imported on use, not on import"


def test_package_root_imports_nothing_at_import() -> None:
    eager = set(imports(LIBRARY / "__init__.py", ROOT, at_import_only=True))
    assert {name.split(".")[0] for name in eager} <= sys.stdlib_module_names, eager


def test_kernels_import_torch_and_triton_only() -> None:
    allowed = {"torch", "triton", "dlm_kernels", *sys.stdlib_module_names}
    for path in sources(ROOT / "kernels" / "dlm_kernels"):
        tops = {name.split(".")[0] for name in imports(path, ROOT / "kernels")}
        assert tops <= allowed, f"{where(path)} imports {sorted(tops - allowed)}"


def public_names(path: Path) -> set[str]:
    for node in tree(path).body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if any(isinstance(t, ast.Name) and t.id == "__all__" for t in targets):
            assert isinstance(node, ast.Assign)
            return set(ast.literal_eval(node.value))
    return set()


def defined_names(path: Path) -> set[str]:
    """Public names of a module: all that it defines without a leading underscore, or re-exports."""
    body = tree(path).body
    names = {n.name for n in body if isinstance(n, ast.ClassDef | ast.FunctionDef)}
    aliases = [alias for n in body if isinstance(n, ast.ImportFrom) for alias in n.names]
    names |= {alias.name for alias in aliases if alias.asname == alias.name}
    targets = [t for n in body if isinstance(n, ast.Assign) for t in n.targets]
    names |= {t.id for t in targets if isinstance(t, ast.Name)}
    return {name for name in names if not name.startswith("_")}


# Packages that say in `__all__` what is public; and beside them modules that are public as a whole:
# nouns, messages, schedules, embedded models, the oracle of the examples.
PUBLIC_PACKAGES = ("denoisers", "ops", "processes", "samplers", "testing", "types")
SHARED_MODULES = ("errors", "embedded", "schedules", "testing.sudoku")
OUTSIDE = [*sources(ROOT / "eval"), *sources(ROOT / "examples")]


@pytest.mark.parametrize("path", OUTSIDE, ids=where)
def test_eval_and_examples_use_public_names(path: Path) -> None:
    public = {"dlm_sampling": public_names(LIBRARY / "__init__.py")}
    for name in PUBLIC_PACKAGES:
        public[f"dlm_sampling.{name}"] = public_names(LIBRARY / name / "__init__.py")
    for name in SHARED_MODULES:
        public[f"dlm_sampling.{name}"] = defined_names(
            LIBRARY.joinpath(*name.split(".")).with_suffix(".py")
        )
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dlm_sampling"):
            assert node.module in public, f"{where(path)} imports from {node.module}"
            names = {alias.name for alias in node.names}
            assert names <= public[node.module], f"{where(path)}: {names - public[node.module]}"
        if isinstance(node, ast.Import):
            for alias in node.names:
                assert not alias.name.startswith("dlm_sampling."), f"{where(path)}: {alias.name}"


def is_sampler(path: Path) -> bool:
    """Whether the file defines a class with a `step` of its own, other than the shared base."""
    classes = [n for n in tree(path).body if isinstance(n, ast.ClassDef)]
    methods = [m for c in classes for m in c.body if isinstance(m, ast.FunctionDef)]
    return path.stem not in {"base", "__init__"} and any(m.name == "step" for m in methods)


def test_no_sampler_imports_another() -> None:
    files = [p for p in sources(LIBRARY / "samplers") if is_sampler(p)]
    modules = {module_name(p, ROOT) for p in files}
    assert modules, "no sampler found: this test looks for classes with a `step` method"
    for path in files:
        others = set(imports(path, ROOT)) & modules - {module_name(path, ROOT)}
        assert not others, f"{where(path)} imports {sorted(others)}"


def test_source_roots_are_not_packages() -> None:
    for folder in ("kernels", "eval"):
        assert (ROOT / folder).is_dir()
        assert not (ROOT / folder / "__init__.py").exists(), f"{folder}/ must not be a package"


@pytest.mark.parametrize("path", sources(LIBRARY), ids=where)
def test_library_code_raises_and_logs(path: Path) -> None:
    module = module_name(path, ROOT)
    for node in ast.walk(tree(path)):
        place = f"{where(path)}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Assert):
            assert narrows_a_type(node), f"{place}: raise an error instead of assert"
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Name) and node.func.id == "print":
            assert module in MAY_PRINT, f"{place}: library code does not print"
        assert not draws_from_the_global_generator(node), f"{place}: pass a generator"


def narrows_a_type(node: ast.Assert) -> bool:
    """Whether it only tells the type checker what was checked before: `x is not None`."""
    test = node.test
    return isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.IsNot)


def draws_from_the_global_generator(node: ast.Call) -> bool:
    target = node.func
    if not (isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name)):
        return False
    if target.value.id != "torch":
        return False
    given = {keyword.arg for keyword in node.keywords}
    return target.attr.removesuffix("_like") in GLOBAL_RANDOM and "generator" not in given


@pytest.mark.parametrize("path", sources(LIBRARY), ids=where)
def test_files_stay_small(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines < LONGEST_MODULE, f"{where(path)} has {lines} lines; split it"


def tracked_text() -> Iterator[tuple[str, str]]:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        if path.suffix in {".py", ".md", ".toml", ".txt", ".json", ".cff", ""} and path.is_file():
            yield name, path.read_text(encoding="utf-8", errors="replace")


def test_no_path_of_a_machine_is_named() -> None:
    folders = "|".join(["work", "opt", "root", "home", "mnt"])
    pattern = re.compile(rf"(?<![\w.~-])/({folders})/\w")
    hits = [name for name, text in tracked_text() if pattern.search(text)]
    assert not hits, f"absolute paths of one machine in {hits}"

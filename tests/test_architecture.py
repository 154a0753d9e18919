"""The dependency direction and the house rules, read from the syntax trees; nothing is imported."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = ROOT / "dlm_sampling"

# A part is a folder of the library, or a module of its root.  It imports parts of the lines above
# its own, and none of its own line: samplers and denoisers never see each other, and the engine
# never sees text or viewers.
RANKS: list[set[str]] = [
    {"errors"},
    {"types"},
    {"embedded", "schedules", "ops"},
    {"processes", "watermark"},
    {"samplers", "denoisers", "caches", "constraints"},
    {"guidance"},
    {"prediction"},
    {"engine"},
    {"likelihood", "learn", "viewers", "testing", "checkup", "smc"},
    {"rl"},
    {"text"},
    {"jobs", "trl"},
    {"cli"},
    {"__main__"},
]
MAY_IMPORT_THE_ROOT = {"cli"}  # `from dlm_sampling import X`, the public names

MAY_IMPORT_TRANSFORMERS = {"denoisers", "trl"}
MAY_IMPORT_KERNELS = {"dlm_sampling.ops._dispatch"}
MAY_IMPORT_EVAL = {"dlm_sampling.cli.evaluate"}
MAY_PRINT = {"dlm_sampling.cli.app", "dlm_sampling.cli.checkup", "dlm_sampling.cli.exits"}
GLOBAL_RANDOM = {"rand", "randn", "randint", "randperm", "multinomial", "bernoulli", "normal"}
LONGEST_MODULE = 400


# A docstring begins with a verb in the imperative ("Return", "Draw", "Hold"), so not with one of
# these, nor with a verb or a noun in s ("Returns", "Positions").
NO_VERBS = {"The", "A", "An", "Whether", "What", "How", "Those", "Which", "Where", "Some", "Is"}


def sources(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*.py") if "__pycache__" not in p.parts)


def module_name(path: Path, base: Path) -> str:
    parts = path.relative_to(base).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@cache
def nodes_of(path: Path) -> list[ast.AST]:
    """All nodes of a file: a walk takes as long as the parser, and many tests look at each."""
    return list(ast.walk(tree(path)))


@cache
def is_module(dotted: str) -> bool:
    paths = [base.joinpath(*dotted.split(".")) for base in (ROOT, ROOT / "kernels", ROOT / "eval")]
    return any(path.is_dir() or path.with_suffix(".py").is_file() for path in paths)


@cache
def imports(path: Path, base: Path, *, at_import_only: bool = False) -> list[str]:
    """Dotted names that a file imports; `at_import_only` leaves out functions and TYPE_CHECKING."""
    nodes = at_import(tree(path).body) if at_import_only else nodes_of(path)
    found: list[str] = []
    package = module_name(path, base).split(".")
    package = package if path.name == "__init__.py" else package[:-1]
    for node in nodes:
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            anchor = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*anchor, *([node.module] if node.module else [])])
            for alias in node.names:
                deeper = f"{origin}.{alias.name}"
                known = origin.startswith("dlm_") and is_module(deeper)
                found.append(deeper if known else origin)
    return found


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


def for_each(paths: list[Path]) -> Callable[[Callable[[Path], None]], Callable[[], None]]:
    """Make one test of a check of one file: a test for each file costs more than the checks."""

    def decorate(check: Callable[[Path], None]) -> Callable[[], None]:
        def test() -> None:
            broken: list[str] = []
            for path in paths:
                try:
                    check(path)
                except AssertionError as error:
                    broken.append(str(error).splitlines()[0])
            assert not broken, "\n".join(broken)

        test.__name__, test.__doc__ = check.__name__, check.__doc__
        return test

    return decorate


PROBED = {"types", "ops", "processes", "samplers", "prediction", "engine", "likelihood", "learn"}
MAY_PROBE = {
    "dlm_sampling.samplers.contract",  # names the members that a user's class lacks
    "dlm_sampling.samplers.frequencies.count_frequencies",  # tokenizers and corpora of others
}


def library_imports(path: Path) -> set[str]:
    """Names of the library that a file imports, in functions and for type checking too."""
    return {name for name in imports(path, ROOT) if name.split(".")[0] == "dlm_sampling"}


def test_every_part_has_a_rank_and_every_rank_its_part() -> None:
    parts = [part(module_name(p, ROOT)) for p in FILES]
    ranked = [name for line in RANKS for name in line]
    assert len(ranked) == len(set(ranked)), "a part has two ranks"
    missing, ghosts = set(parts) - set(ranked), set(ranked) - set(parts)
    assert not missing, f"add {sorted(missing)} to RANKS in this test, at the right height"
    assert not ghosts, f"RANKS names {sorted(ghosts)}, which do not exist"


@for_each(FILES)
def test_dependency_direction(path: Path) -> None:
    module = module_name(path, ROOT)
    mine = part(module)
    for name in library_imports(path):
        theirs = part(name)
        if not theirs:
            assert mine in MAY_IMPORT_THE_ROOT, f"{where(path)} imports from the package root"
        elif theirs != mine:
            message = f"{where(path)} imports {name}, and {theirs} does not stand above {mine}"
            assert rank(theirs) < rank(mine), message


def test_no_import_circle() -> None:
    """Circles hidden in functions or under TYPE_CHECKING count: two modules that need each other
    are one module.  The three packages are looked at together, so that none runs through two."""
    folders = {ROOT: FILES, **{ROOT / x: sources(ROOT / x) for x in ("kernels", "eval")}}
    asked = {
        module_name(path, base): set(imports(path, base))
        for base, files in folders.items()
        for path in files
    }
    graph = {name: (others & set(asked)) - {name} for name, others in asked.items()}
    assert {"dlm_kernels", "dlm_eval", "dlm_sampling"} <= {name.split(".")[0] for name in graph}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"modules import each other: {' -> '.join(error.args[1])}")


@for_each(sources(LIBRARY))
def test_transformers_and_kernels_stay_behind_their_doors(path: Path) -> None:
    module = module_name(path, ROOT)
    for name in imports(path, ROOT):
        top = name.split(".")[0]
        if top == "transformers":
            assert part(module) in MAY_IMPORT_TRANSFORMERS, f"{where(path)} imports transformers"
            whole = (
                f"{where(path)}: import from the module of the class; pyright reads all models else"
            )
            assert "." in name, whole
        assert top != "triton", f"{where(path)} imports triton; that belongs to kernels/"
        if top == "dlm_eval":
            assert module in MAY_IMPORT_EVAL, f"{where(path)} imports dlm_eval"
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


def reexported(path: Path) -> set[str]:
    """Names that a module imports for others: `import X as X`."""
    imported = [n for n in tree(path).body if isinstance(n, ast.ImportFrom)]
    return {a.name for n in imported for a in n.names if a.asname == a.name}


def public_names(path: Path) -> set[str]:
    """Names in `__all__`, or without it those that are re-exported."""
    for node in tree(path).body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if any(isinstance(t, ast.Name) and t.id == "__all__" for t in targets):
            assert isinstance(node, ast.Assign)
            return set(ast.literal_eval(node.value))
    return reexported(path)


def defined_names(path: Path) -> set[str]:
    """Public names of a module: all that it defines without a leading underscore, or re-exports."""
    body = tree(path).body
    names = {n.name for n in body if isinstance(n, ast.ClassDef | ast.FunctionDef)}
    names |= reexported(path)
    targets = [t for n in body if isinstance(n, ast.Assign) for t in n.targets]
    names |= {t.id for t in targets if isinstance(t, ast.Name)}
    return {name for name in names if not name.startswith("_")}


# Packages that say what is public, see `public_names`; and modules that are public as a whole:
# messages, schedules, embedded models, the oracle of the examples, the start of the command.
PUBLIC_PACKAGES = (
    *(
        "caches",
        "cli",
        "constraints",
        "denoisers",
        "guidance",
        "jobs",
        "ops",
        "processes",
        "rl",
        "samplers",
        "smc",
        "testing",
        "trl",
        "types",
    ),
)
SHARED_MODULES = ("errors", "embedded", "schedules", "testing.sudoku", "__main__")
OUTSIDE = [*sources(ROOT / "eval"), *sources(ROOT / "examples")]


@cache
def public_modules() -> dict[str, set[str]]:
    """The public names of every module that has some."""
    public = {"dlm_sampling": public_names(LIBRARY / "__init__.py")}
    for name in PUBLIC_PACKAGES:
        public[f"dlm_sampling.{name}"] = public_names(LIBRARY / name / "__init__.py")
    for name in SHARED_MODULES:
        public[f"dlm_sampling.{name}"] = defined_names(
            LIBRARY.joinpath(*name.split(".")).with_suffix(".py")
        )
    return public


@for_each(OUTSIDE)
def test_eval_and_examples_use_public_names(path: Path) -> None:
    public = public_modules()
    for node in nodes_of(path):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dlm_sampling"):
            assert node.module in public, f"{where(path)} imports from {node.module}"
            names = {alias.name for alias in node.names}
            assert names <= public[node.module], f"{where(path)}: {names - public[node.module]}"
        if isinstance(node, ast.Import):
            for alias in node.names:
                assert not alias.name.startswith("dlm_sampling."), f"{where(path)}: {alias.name}"


def classes(path: Path) -> dict[str, set[str]]:
    """The classes of a file, each with the names of its bases."""
    found: dict[str, set[str]] = {}
    for node in tree(path).body:
        if isinstance(node, ast.ClassDef):
            bases = [b.value if isinstance(b, ast.Subscript) else b for b in node.bases]
            found[node.name] = {last_name(b) for b in bases}
    return found


def last_name(node: ast.expr) -> str:
    """`Base` of `Base` and of `module.Base`."""
    if isinstance(node, ast.Name):
        return node.id
    return node.attr if isinstance(node, ast.Attribute) else ast.unparse(node).split(".")[-1]


SAMPLER_FILES = sources(LIBRARY / "samplers")
SAMPLER_BASES = {name: bases for path in SAMPLER_FILES for name, bases in classes(path).items()}


def derives(name: str, ancestor: str) -> bool:
    """Whether a class of the samplers descends from another one, itself included."""
    parents = SAMPLER_BASES.get(name, set())
    return name == ancestor or any(derives(parent, ancestor) for parent in parents)


def samplers_of(path: Path) -> set[str]:
    """The samplers that a file defines."""
    return {name for name in classes(path) if derives(name, "SamplerBase")}


# Shared parts are not algorithms: their samplers are abstract.
SHARED = {LIBRARY / "samplers" / "base.py", *sources(LIBRARY / "samplers" / "parts")}
ALGORITHMS = {module_name(p, ROOT): p for p in SAMPLER_FILES if samplers_of(p) and p not in SHARED}


def test_algorithms_are_seen() -> None:
    assert len(ALGORITHMS) >= 45
    assert {"ancestral", "llada", "duo", "p2"} <= {m.split(".")[-1] for m in ALGORITHMS}
    by_name = {name: path for path in ALGORITHMS.values() for name in samplers_of(path)}
    solvers = {name for name in by_name if derives(name, "Solver")}
    assert {"Ancestral", "Euler", "ThetaTrapezoidal", "Gillespie", "FlowMatching"} <= solvers
    assert not solvers & {"LLaDA", "P2", "KLASS", "SDAR", "Planned"}


@for_each(SAMPLER_FILES)
def test_a_sampler_may_build_on_a_solver_never_on_a_decoder(path: Path) -> None:
    """A file may import an algorithm only if all its samplers are solvers; shared parts none."""
    if path.name in {"__init__.py", "registry.py"}:
        return
    for name in library_imports(path) & set(ALGORITHMS) - {module_name(path, ROOT)}:
        assert path not in SHARED, f"{where(path)} is a shared part and imports {name}"
        decoders = {n for n in samplers_of(ALGORITHMS[name]) if not derives(n, "Solver")}
        assert not decoders, f"{where(path)} imports {name}, where {sorted(decoders)} decode"


def probes(path: Path) -> list[int]:
    """Lines that ask an object for an attribute by name in case it has one."""
    nodes = nodes_of(path)
    named = [
        (n, n.func.id) for n in nodes if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
    ]
    # An operator may lack its kernel, and a caller of `replay` may pass anything.
    strict = part(module_name(path, ROOT)) in {"samplers", "prediction", "engine"}
    caught = [n for n in nodes if isinstance(n, ast.ExceptHandler) and strict]
    return [
        *(n.lineno for n, name in named if name == "hasattr" or (name, len(n.args)) == GETATTR),
        *(n.lineno for n in caught if n.type and "AttributeError" in ast.unparse(n.type)),
    ]


GETATTR = ("getattr", 3)


@for_each(FILES)
def test_the_base_class_of_samplers_is_not_asked_for(path: Path) -> None:
    """A sampler is what has the protocol; its base class is a convenience."""
    for node in nodes_of(path):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
            continue
        if node.func.id in ("isinstance", "issubclass"):
            kinds = {last_name(n) for n in ast.walk(node.args[1]) if isinstance(n, ast.expr)}
            assert "SamplerBase" not in kinds, f"{where(path)}:{node.lineno}: ask for `Sampler`"


@for_each(FILES)
def test_no_part_of_the_library_is_imported_by_a_string(path: Path) -> None:
    """Such an import would pass under every wall of this file."""
    for node in nodes_of(path):
        if isinstance(node, ast.Call) and last_name(node.func) in ("import_module", "__import__"):
            named = [a.value for a in ast.walk(node) if isinstance(a, ast.Constant)]
            ours = [name for name in named if str(name).split(".")[0] == "dlm_sampling"]
            assert not ours, f"{where(path)}:{node.lineno}: import {ours} by a statement"


def test_every_registered_sampler_is_seen_by_these_tests() -> None:
    """The names in the last lines of the files, against the files that are looked at here."""
    calls = {
        module_name(path, ROOT)
        for path in SAMPLER_FILES
        for node in tree(path).body
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Call)
        and last_name(node.value.func) == "register"
    }
    assert len(calls) >= 45
    assert calls <= set(ALGORITHMS), calls - set(ALGORITHMS)


@for_each(FILES)
def test_no_attribute_is_recognised_by_its_name(path: Path) -> None:
    """`getattr` with a default hides a contract: what is read of an object stands in its type."""
    module, lines = module_name(path, ROOT), probes(path)
    if part(module) in PROBED and module not in MAY_PROBE:
        assert not lines, f"{where(path)}:{lines}: put it into the type, with its default"


def test_source_roots_are_not_packages() -> None:
    for folder in ("kernels", "eval"):
        assert (ROOT / folder).is_dir()
        assert not (ROOT / folder / "__init__.py").exists(), f"{folder}/ must not be a package"


@for_each(sources(LIBRARY))
def test_library_code_raises_and_logs(path: Path) -> None:
    module, file = module_name(path, ROOT), where(path)
    for node in nodes_of(path):
        if not isinstance(node, ast.Assert | ast.Call):
            continue
        place = f"{file}:{node.lineno}"
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


@for_each(sources(LIBRARY))
def test_files_stay_small(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines < LONGEST_MODULE, f"{where(path)} has {lines} lines; split it"


@for_each([p for folder in (LIBRARY, ROOT / "eval", ROOT / "examples") for p in sources(folder)])
def test_no_function_takes_ten_arguments_by_place(path: Path) -> None:
    """Nobody counts to ten in a call; kernels are launched by place, and are left out."""
    long = [
        f"{node.name}: {len(node.args.posonlyargs + node.args.args)}"
        for node in nodes_of(path)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and len(node.args.posonlyargs + node.args.args) >= 10
    ]
    assert not long, f"{where(path)}: {', '.join(long)} arguments by place; put `*,` before them"


# Parts of which every file has tests of its name: who changes a file finds its tests at once.
MIRRORED = (
    "types", "ops", "processes", "prediction", "engine", "likelihood", "text", "jobs",
)  # fmt: skip
WITHOUT_TESTS_OF_THEIR_NAME = {
    "prediction/passes.py": "an interface without code",
    "types/schedule.py": "an interface without code: tests/test_schedules.py",
}


def has_tests_of_its_name(path: Path) -> bool:
    folder = ROOT / "tests" / path.relative_to(LIBRARY).parent
    return (folder / f"test_{path.stem.lstrip('_')}.py").is_file()


def test_every_file_of_the_core_has_tests_of_its_name() -> None:
    files = [path for part in MIRRORED for path in sources(LIBRARY / part)]
    missing = {
        path.relative_to(LIBRARY).as_posix()
        for path in files
        if path.name != "__init__.py" and not has_tests_of_its_name(path)
    }
    assert missing == set(WITHOUT_TESTS_OF_THEIR_NAME)


def tracked_text() -> Iterator[tuple[str, str]]:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        if path.suffix in {".py", ".md", ".toml", ".txt", ".json", ".cff", ""} and path.is_file():
            yield name, path.read_text(encoding="utf-8", errors="replace")


def public_docstrings(path: Path) -> Iterator[str]:
    """Docstrings of a module and of its public classes, functions and methods."""
    nodes: list[ast.Module | ast.ClassDef | ast.FunctionDef] = [tree(path)]
    for node in nodes:  # grows
        if text := ast.get_docstring(node):
            yield text
        if not isinstance(node, ast.FunctionDef):
            nodes += [
                part
                for part in node.body
                if isinstance(part, ast.ClassDef | ast.FunctionDef) and part.name[0] != "_"
            ]


def test_docstrings_begin_with_a_verb() -> None:
    wrong: list[str] = []
    for path in [*sources(LIBRARY), *sources(ROOT / "kernels" / "dlm_kernels")]:
        for text in public_docstrings(path):
            first = text.split()[0].rstrip(",")
            if first in NO_VERBS or not re.fullmatch(r"[A-Z][a-z-]*([^s]|ss)", first):
                wrong.append(f"{where(path)}: {text.splitlines()[0]}")
    assert not wrong, 'begin with a verb, as in "Return ...":\n' + "\n".join(wrong)


TOOLBOX = {
    "processes/guidance.py": {"classifier_free_law"},
    "processes/matrices.py": {
        "uniform_matrix", "absorbing_matrix", "banded_matrix", "gaussian_matrix",
        "nearest_neighbour_rates", "uniform_rates", "banded_rates", "gaussian_rates",
    },
    "ops/philox.py": {"philox4x32"},
    "denoisers/families/duo.py": {"soft_logits"},
    "denoisers/families/bd3lm.py": {"training_logits"},
}  # fmt: skip


def test_mathematics_that_only_tests_call_is_the_public_toolbox() -> None:
    """Any other goes to `testing`: what nobody calls is not known to be right in a run."""
    named = Counter[str]()
    for path in sources(LIBRARY):
        named.update(re.findall(r"\w+", path.read_text(encoding="utf-8")))
    found: dict[str, set[str]] = {}
    for folder in ("processes", "ops", "denoisers/families"):
        for path in sources(LIBRARY / folder):
            for node in nodes_of(path):
                if not isinstance(node, ast.FunctionDef) or node.name.startswith("_"):
                    continue
                if named[node.name] == 1:
                    found.setdefault(path.relative_to(LIBRARY).as_posix(), set()).add(node.name)
    assert found == TOOLBOX
    for name in TOOLBOX:
        assert "Public toolbox: " in (LIBRARY / name).read_text(encoding="utf-8"), name


def test_arguments_and_fields_are_named_by_a_noun() -> None:
    """ "law: temperature and filters of the draws", not "law: how tokens are drawn"."""
    clause = re.compile(r"^ +\w[\w, ]*: (what|how|who|whoever|where|those)\b.*", re.MULTILINE)
    wrong = [
        f"{where(path)}: {found.group().strip()}"
        for path in [*sources(LIBRARY), *sources(ROOT / "kernels" / "dlm_kernels")]
        for node in nodes_of(path)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        for found in clause.finditer(ast.get_docstring(node) or "")
    ]
    assert not wrong, "\n".join(wrong)


def test_a_folder_says_in_one_sentence_what_it_is_for() -> None:
    for path in LIBRARY.glob("*/**/__init__.py"):
        text = ast.get_docstring(tree(path)) or ""
        assert re.fullmatch(r"[A-Z].+\.", text) and ". " not in text, f"{where(path)}: {text}"


def test_no_path_of_a_machine_is_named() -> None:
    folders = "|".join(["work", "opt", "root", "home", "mnt"])
    pattern = re.compile(rf"(?<![\w.~-])/({folders})/\w")
    hits = [name for name, text in tracked_text() if pattern.search(text)]
    assert not hits, f"absolute paths of one machine in {hits}"

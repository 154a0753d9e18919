"""What a contributor meets first: the guide, whose walks are executed here, and the issue forms."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.bare import run
from tests.forks import ROOT, Forks

GUIDE = ROOT / ".github" / "CONTRIBUTING.md"
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
FILE = re.compile(r"^`([\w./]+)`\n\n```(python|diff)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def write_files(guide: str, root: Path) -> list[str]:
    """Make the files and changes of the guide below `root`; return their paths."""
    paths: list[str] = []
    for name, language, body in FILE.findall(guide):
        path = root / name
        if language == "diff":
            assert path.is_file(), f"{name} is to be changed, and is not there"
            path.write_text(changed(path.read_text(encoding="utf-8"), body, name), encoding="utf-8")
        else:
            assert not path.exists(), f"{name} is there already"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(body, encoding="utf-8")
            paths.append(name)
    return paths


def changed(text: str, diff: str, name: str) -> str:
    """Insert the lines marked + below the line that stands before them in the diff."""
    lines, at = text.splitlines(), 0
    for line in diff.splitlines():
        mark, content = line[:1], line[1:]
        if mark == "+":
            lines.insert(at, content)
            at += 1
        else:
            assert lines.count(content) == 1, f"{name} has no single line {content!r}"
            at = lines.index(content) + 1
    return "\n".join(lines) + "\n"


TABLE_THEN_TESTS = """
import runpy, sys, pytest
runpy.run_module("tests.test_readme", run_name="__main__", alter_sys=True)
sys.exit(pytest.main(sys.argv[1:]))
"""


def ruff(*arguments: str, cwd: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ruff", *arguments], cwd=cwd,
        capture_output=True, text=True, check=False, timeout=250,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="triton is made for Linux only")
def test_the_walks_work_as_they_stand(tmp_path: Path, bare: Forks) -> None:
    """All files and changes of the guide, in a copy: their own tests, the contract, the table.

    One process, as most of the time is that of imports: the kernel needs the interpreter, and
    to everything else, which is torch's on a CPU, it makes no difference.
    """
    # Bytecode is copied with its sources, but not while another worker writes it.
    ignored = shutil.ignore_patterns("*.pyc.*", "*.egg-info", "results", ".*_cache")
    for name in ("dlm_sampling", "kernels", "eval", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    shutil.copytree(ROOT / "eval" / "results", tmp_path / "eval" / "results")
    for name in ("README.md", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    written = write_files(GUIDE.read_text(encoding="utf-8"), tmp_path)

    ruff("check", "-q", *written, cwd=tmp_path)
    ruff("format", "-q", "--check", *written, cwd=tmp_path)
    tests = [name for name in written if Path(name).name.startswith("test_")]
    assert len(tests) == 3
    (check,) = (name for name in written if Path(name).name.startswith("check_"))
    suites = ("tests/test_contract.py", "tests/test_readme.py", *tests, check)
    chosen = "prefix or llama_masks or token_ranks or table_is_what"
    words = ("-q", "-n0", "-rA", "-k", chosen, *suites)
    paths = [tmp_path / folder for folder in ("", "kernels", "eval")]
    status, passed, err = run(bare, TABLE_THEN_TESTS, tmp_path, paths, *words, TRITON_INTERPRET="1")
    assert status == 0, passed[-6000:] + err[-2000:]
    assert "| [prefix](dlm_sampling/samplers/prefix.py) |" in (tmp_path / "README.md").read_text()
    for name in tests:
        assert f"PASSED {name}::" in passed
    contract = re.findall(r"PASSED tests/test_contract\.py::(\w+)\[prefix", passed)
    assert len(contract) >= 9, contract
    assert "PASSED tests/test_readme.py::test_table_is_what_the_registry_says" in passed
    assert f"PASSED {check}::test_the_same_integers[dtype0]" in passed


def test_a_change_that_no_longer_fits_is_noticed(tmp_path: Path) -> None:
    guide = GUIDE.read_text(encoding="utf-8")
    names = [name for name, language, _ in FILE.findall(guide) if language == "diff"]
    assert len(names) == 3
    text = (ROOT / names[0]).read_text(encoding="utf-8")
    with pytest.raises(AssertionError, match="has no single line 'import nothing'"):
        changed(text, " import nothing\n+import this\n", names[0])
    assert changed("a\nb\n", " a\n+c\n+d\n", "x") == "a\nc\nd\nb\n"


def test_the_map_shows_every_room() -> None:
    guide = GUIDE.read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([^|]*)` \|", guide[: guide.index("## Tests")], re.MULTILINE)
    shown: set[str] = set()
    for row in rows:
        for name in row.replace("`", "").split(", "):
            head, _, rest = name.partition("{")
            shown |= {head + part for part in rest.removesuffix("}").split(",")} if rest else {name}
    rooms = {f"dlm_sampling/{p.parent.name}" for p in (ROOT / "dlm_sampling").glob("*/__init__.py")}
    assert rooms <= shown, f"the map of {GUIDE.name} lacks {sorted(rooms - shown)}"
    places = (ROOT, ROOT / "dlm_sampling")
    gone = {name for name in shown if not any((place / name).exists() for place in places)}
    assert not gone, f"the map of {GUIDE.name} has {sorted(gone)}, which is no file or folder"


KINDS: dict[str, tuple[set[str], set[str]]] = {  # type: (required attributes, allowed attributes)
    "markdown": ({"value"}, {"value"}),
    "input": ({"label"}, {"label", "description", "placeholder", "value"}),
    "textarea": ({"label"}, {"label", "description", "placeholder", "value", "render"}),
    "dropdown": ({"label", "options"}, {"label", "description", "multiple", "options", "default"}),
    "checkboxes": ({"label", "options"}, {"label", "description", "options"}),
}


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def test_the_four_forms_are_there() -> None:
    names = {path.stem for path in FORMS}
    assert names == {"bug", "config", "new_checkpoint", "new_sampler", "wrong_law"}
    assert (ROOT / ".github" / "PULL_REQUEST_TEMPLATE.md").is_file()


@pytest.mark.parametrize("path", [p for p in FORMS if p.stem != "config"], ids=lambda p: p.stem)
def test_a_form_has_githubs_schema(path: Path) -> None:
    form = load(path)
    assert {"name", "description", "body"} <= set(form) <= {
        "name", "description", "body", "title", "labels", "assignees", "projects", "type",
    }  # fmt: skip
    ids: list[str] = []
    for part in form["body"]:
        required, allowed = KINDS[part["type"]]
        attributes = part["attributes"]
        assert required <= set(attributes) <= allowed, part
        assert set(part) <= {"type", "id", "attributes", "validations"}
        for key, value in attributes.items():
            assert value is True or value, f"{key} is empty"
            if key not in ("options", "multiple"):
                assert isinstance(value, str)
        options = attributes.get("options", [])
        labels = [o["label"] if part["type"] == "checkboxes" else o for o in options]
        assert all(isinstance(label, str) and label for label in labels)
        assert len(set(labels)) == len(labels)
        assert all(isinstance(v, bool) for v in part.get("validations", {}).values())
        if part["type"] != "markdown":
            assert re.fullmatch(r"[\w-]+", part["id"])
            ids.append(part["id"])
    assert ids
    assert len(set(ids)) == len(ids), f"two fields have one id: {ids}"


def test_the_hooks_have_the_versions_of_the_constraints() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line)
    hooks = {
        h["id"]: h for r in load(ROOT / ".pre-commit-config.yaml")["repos"] for h in r["hooks"]
    }
    assert set(hooks) == {"ruff-check", "ruff-format", "pyright"}
    for name in ("ruff-check", "ruff-format"):
        assert hooks[name]["additional_dependencies"] == [f"ruff=={pins['ruff']}"]
    assert f"PYRIGHT_PYTHON_FORCE_VERSION={pins['pyright']} " in hooks["pyright"]["entry"]

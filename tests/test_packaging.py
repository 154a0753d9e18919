"""Wheel, editable install, uninstalled tests, and Hugging Face's `kernels` package beside us."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from tests.bare import run
from tests.forks import ROOT, Forks

PACKAGES = ("dlm_sampling", "dlm_kernels", "dlm_eval")


def python(*arguments: str, cwd: Path, path: str = "") -> subprocess.CompletedProcess[str]:
    """Run this interpreter with PYTHONPATH=`path`, in `cwd`."""
    environment = {
        k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "PYTHONPATH"))
    }
    environment |= {"PYTHONPATH": path} if path else {}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
    )


def check(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def pip(*arguments: str, cwd: Path) -> None:
    check(python("-m", "pip", *arguments, "--no-deps", "--no-build-isolation", "-q", cwd=cwd))


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources, so that a build leaves nothing behind."""
    target = tmp_path_factory.mktemp("checkout") / "dlm"
    target.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, target)
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info", "build", "results")
    for name in ("dlm_sampling", "kernels", "eval", "examples"):
        shutil.copytree(ROOT / name, target / name, ignore=ignore)
    (target / "tests").mkdir()
    return target


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    pip("wheel", "-w", str(out), str(checkout), cwd=out)
    shutil.rmtree(checkout / "build", ignore_errors=True)
    (built,) = out.glob("*.whl")
    return built


def test_wheel_holds_the_three_packages_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)
    for wanted in ("py.typed", "CHANGELOG.md", "CITATION.cff", "types/law.py", "cli/app.py"):
        assert f"dlm_sampling/{wanted}" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_wheel_holds_every_module_and_model(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for base in (ROOT, ROOT / "kernels", ROOT / "eval"):
        for package in PACKAGES:
            for path in (base / package).rglob("*.py"):
                assert path.relative_to(base).as_posix() in names
    for path in (ROOT / "dlm_sampling" / "models").rglob("*"):
        if path.is_file() and path.suffix in {".json", ".safetensors", ".txt", ".md"}:
            assert path.relative_to(ROOT).as_posix() in names
    for path in (ROOT / "eval" / "dlm_eval" / "data").rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            assert path.relative_to(ROOT / "eval").as_posix() in names


def test_wheel_metadata(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (name,) = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
    metadata = Parser().parsestr(archive.read(name).decode())
    (entry,) = [n for n in archive.namelist() if n.endswith("entry_points.txt")]
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "Apache-2.0"
    requires = [r.replace(" ", "") for r in metadata.get_all("Requires-Dist") or []]
    assert "torch>=2.6" in requires
    assert "transformers<6,>=4.57" in requires
    assert any(r.startswith("triton;") and "linux" in r for r in requires)
    assert "dlm-sampling = dlm_sampling.__main__:main" in archive.read(entry).decode()


def test_installed_wheel_imports(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "site"
    pip("install", "--no-compile", "--target", str(target), str(wheel), cwd=tmp_path)
    code = f"import {', '.join(PACKAGES)}; print({', '.join(f'{p}.__file__' for p in PACKAGES)})"
    printed = check(python("-c", code, cwd=tmp_path, path=str(target)))
    assert printed.count(str(target)) == len(PACKAGES)


def test_editable_install_sees_new_files(checkout: Path, tmp_path: Path) -> None:
    pip(
        "install",
        "--no-compile",
        "--ignore-installed",
        "--prefix",
        str(tmp_path),
        "-e",
        str(checkout),
        cwd=tmp_path,
    )
    (site,) = {path.parent for path in tmp_path.rglob("*.dist-info")}
    fresh = [checkout / "dlm_sampling" / "fresh.py", checkout / "kernels/dlm_kernels/fresh.py"]
    for path in fresh:
        path.write_text("HERE = __file__\n", encoding="utf-8")
    code = (
        f"import site, sys; site.addsitedir({str(site)!r})\n"
        f"sys.path.append({sysconfig.get_path('purelib')!r})\n"
        "import dlm_sampling.fresh, dlm_kernels.fresh, dlm_eval\n"
        "print(dlm_sampling.fresh.HERE, dlm_kernels.fresh.HERE, dlm_eval.__file__)"
    )
    try:
        # -S: an editable install of this project in the environment itself must not answer.
        printed = check(python("-S", "-c", code, cwd=tmp_path))
    finally:
        for path in fresh:
            path.unlink()
    assert printed.count(str(checkout)) == len(PACKAGES)


def test_pytest_runs_uninstalled(checkout: Path) -> None:
    lines = [f"import {name}" for name in PACKAGES]
    lines += ["def test_sources() -> None:"]
    lines += [f"    assert {name}.__file__.startswith({str(checkout)!r})" for name in PACKAGES]
    (checkout / "tests" / "test_uninstalled.py").write_text("\n".join(lines), encoding="utf-8")
    assert "1 passed" in check(python("-m", "pytest", "-q", "-n0", cwd=checkout))


HUB_KERNELS = '''
"""Stands in for Hugging Face's package: any name, callable, usable as a decorator factory."""
class _Meta(type):
    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return cls
class _Any(metaclass=_Meta):
    def __init__(self, *args, **kwargs): pass
    def __call__(self, target=None, *args, **kwargs): return target
def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return type(name, (_Any,), {})
'''
HUB_MODE = """
import enum
class Mode(enum.Flag):
    FALLBACK = enum.auto(); INFERENCE = enum.auto(); TRAINING = enum.auto()
    TORCH_COMPILE = enum.auto()
"""
USE_HUB_KERNELS = """
import transformers.modeling_utils
from transformers.utils.import_utils import is_kernels_available
from kernels import CUDAProperties
import kernels
print(is_kernels_available(), kernels.__file__)
"""


@pytest.fixture(scope="module")
def hub_kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a `kernels` package that transformers takes for the real one."""
    from transformers.utils import import_utils

    site = tmp_path_factory.mktemp("hub")
    (site / "kernels" / "layer").mkdir(parents=True)
    for name in ("__init__.py", "layer/__init__.py"):
        (site / "kernels" / name).write_text(HUB_KERNELS, encoding="utf-8")
    (site / "kernels" / "layer" / "mode.py").write_text(HUB_MODE, encoding="utf-8")
    version = getattr(import_utils, "KERNELS_MIN_VERSION", "0.10.2")
    info = site / f"kernels-{version}.dist-info"
    info.mkdir()
    metadata = f"Metadata-Version: 2.1\nName: kernels\nVersion: {version}\n"
    (info / "METADATA").write_text(metadata, encoding="utf-8")
    (info / "RECORD").write_text("kernels/__init__.py,,\n", encoding="utf-8")
    return site


def test_hub_kernels_package_works_in_the_checkout(hub_kernels: Path, bare: Forks) -> None:
    status, printed, err = run(bare, USE_HUB_KERNELS, ROOT, [hub_kernels, ROOT])
    assert status == 0, err
    assert printed.split() == ["True", str(hub_kernels / "kernels" / "__init__.py")]


def test_a_package_named_kernels_would_break_it(hub_kernels: Path, tmp_path: Path) -> None:
    """Negative control: with an `__init__.py` in kernels/, the import above fails."""
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "__init__.py").touch()
    first = "from kernels import CUDAProperties"  # what transformers does when it is imported
    assert first in USE_HUB_KERNELS
    assert python("-c", first, cwd=ROOT, path=str(hub_kernels)).returncode == 0
    done = python("-c", first, cwd=tmp_path, path=str(hub_kernels))
    assert done.returncode != 0
    assert "kernels" in done.stderr


WITHOUT = """
import sys
sys.modules["triton"] = None
import dlm_sampling, dlm_kernels
print(sorted({"torch", "transformers"} & set(sys.modules)), dlm_sampling.__version__)
"""
ALL_NAMES = """
for name in dlm_sampling.__all__:
    getattr(dlm_sampling, name)
"""


def test_imports_without_triton_and_without_torch_first(bare: Forks) -> None:
    path = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    printed = check(python("-c", WITHOUT, cwd=ROOT, path=path))
    assert printed.startswith("[] "), "import dlm_sampling must not import torch"
    status, printed, err = run(bare, WITHOUT + ALL_NAMES, ROOT, [ROOT, ROOT / "kernels"])
    assert (status, printed[:10]) == (0, "['torch'] "), err


def test_public_names_are_what_all_says() -> None:
    import dlm_sampling

    assert set(dlm_sampling.__all__) <= set(dir(dlm_sampling))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = dlm_sampling.nothing


SAME_NAME = """
from dlm_sampling.text.generate import GenerateOutput
import dlm_sampling.engine.sample
import dlm_sampling.likelihood.elbo
from dlm_sampling import generate
import dlm_sampling
assert callable(generate) and generate is dlm_sampling.generate, generate
assert dlm_sampling.engine.sample.sample is dlm_sampling.sample
assert dlm_sampling.samplers.available()
"""


def test_public_function_wins_over_the_module_of_its_name(bare: Forks) -> None:
    status, _, err = run(bare, SAME_NAME, ROOT, [ROOT])
    assert status == 0, err

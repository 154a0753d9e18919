"""Find a sampler by its name, or import a user's own one.

`--sampler my_module:MySampler` needs a module on the import path; `--sampler my_file.py:MySampler`
takes any file, because an installed command does not look for modules in the current folder.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from traceback import extract_tb
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING

from dlm_sampling.errors import UsageError, suggestion, unknown_sampler

if TYPE_CHECKING:
    from dlm_sampling.samplers import Entry


def find_sampler(name: str) -> Entry:
    """Find a sampler by registered name, by "module:Name", or by a JSON file of `learn`.

    Raises:
        UsageError: no sampler has this name; the message names the closest one.
        ValueError: the file holds no learned sampler.
    """
    from dlm_sampling.samplers import available, find

    if name.endswith(".json"):
        try:
            return find(name)
        except FileNotFoundError as error:
            raise UsageError(f"--sampler {error}") from None
    if ":" in name and name not in available():
        register_own(name)
    entries = available()
    if name.endswith(".py"):
        raise UsageError(f"--sampler {name}: write it as {name}:Name, with a class of the file.")
    if name not in entries:
        raise UsageError(str(unknown_sampler(name, entries)))
    return entries[name]


def register_own(text: str) -> None:
    """Register the sampler that `text` names, a module or file, ":" and a class or function.

    Its registered name is `text`, so that it can be used like any sampler's name.

    Raises:
        UsageError: the module or file does not exist or has no such name, or what it names builds
            no sampler or needs arguments; see `samplers.register`.
        Exception: the module or file fails; a note names it.
    """
    from dlm_sampling.samplers import register

    place, _, name = text.rpartition(":")
    if not place or not name:
        raise UsageError(f"--sampler {text}: write it as module:Name or file.py:Name.")
    try:
        module = _from_file(Path(place), text) if place.endswith(".py") else _from_path(place, text)
    except UsageError:
        raise
    except Exception as error:
        error.add_note(f"Raised while {_place_of(error, place)} was run, for --sampler {text}.")
        raise
    found = vars(module)
    if name not in found:
        own = [
            known
            for known, value in found.items()
            if isinstance(value, type | FunctionType) and value.__module__ == module.__name__
        ]
        hint = suggestion(name, own)
        raise UsageError(
            f"--sampler {text}: {place} has no {name!r}. It defines {', '.join(own) or 'nothing'}."
            f" {hint}".rstrip()
        )
    try:
        register(text, found[name])
    except TypeError as error:
        raise UsageError(f"--sampler {text}: {error}") from error
    except Exception as error:
        error.add_note(f"Raised by {name} of {place}, for --sampler {text}.")
        raise


def _place_of(error: Exception, place: str) -> str:
    """Return the module or file, with the line of it at which an error was raised."""
    lines = [
        frame.lineno
        for frame in extract_tb(error.__traceback__)
        if place.endswith(".py") and Path(frame.filename) == Path(place).resolve()
    ]
    return f"{place}, line {lines[-1]}," if lines else place


def _from_path(name: str, text: str) -> ModuleType:
    """Import a module by its dotted name."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # a module that the user's own one needs
        raise UsageError(
            f"--sampler {text}: there is no module {error.name!r} on the path; for a file write "
            f"{name.replace('.', '/')}.py:{text.rpartition(':')[2]}"
        ) from None


def _from_file(path: Path, text: str) -> ModuleType:
    """Run a file as a module, under a name that no other module has."""
    name = f"sampler_file_{path.stem}"
    spec = spec_from_file_location(name, path.resolve())
    if spec is None or spec.loader is None or not path.is_file():
        what = "is a folder; name a file" if path.is_dir() else "there is no such file"
        raise UsageError(f"--sampler {text}: {path}: {what}.")
    module = module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module

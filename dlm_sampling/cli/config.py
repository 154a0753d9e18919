"""Read options from a TOML file (`--config FILE`), and print them as TOML (`--print-config`).

A flag overrides the file, and the file overrides the default.  Keys are the long option names.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import typer

from dlm_sampling.errors import ARGUMENT_ALIASES, UsageError, fold, suggestion

NOT_IN_FILE = frozenset({"config", "print_config", "help"})


def option_names(context: typer.Context) -> dict[str, str]:
    """Map the long name of each option, without dashes, to the parameter that it sets."""
    return {
        max(parameter.opts, key=len).lstrip("-"): str(parameter.name)
        for parameter in context.command.params
        if parameter.name not in NOT_IN_FILE and parameter.opts[0].startswith("-")
    }


def read_config(context: typer.Context, path: Path | None) -> Path | None:
    """Use the values of the file as defaults of the command's options.

    Raises:
        UsageError: the file is not TOML, or a key is not an option.
        OSError: the file cannot be read.
    """
    if path is None:
        return None
    if not path.exists():
        raise UsageError(f"--config {path}: no such file.")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML ({error}).") from error
    known = {fold(name): parameter for name, parameter in option_names(context).items()}
    repeated = {parameter.name for parameter in context.command.params if parameter.multiple}
    defaults: dict[str, Any] = {}
    for key, value in table.items():
        if fold(key) not in known:
            hint = suggestion(fold(key), known, ARGUMENT_ALIASES)
            raise UsageError(f"{path}: unknown key '{key}'. {hint or 'Keys are option names.'}")
        name = known[fold(key)]
        if isinstance(value, dict):
            defaults[name] = _as_pairs(cast("dict[str, Any]", value))
        else:
            single = name in repeated and not isinstance(value, list)
            defaults[name] = [value] if single else value
    context.default_map = defaults
    return path


def _as_pairs(table: Mapping[str, Any]) -> list[str]:
    """Turn the table `set` into texts "name=value", as --set takes them."""
    return [f"{name}={value}" for name, value in table.items()]


def write_config(context: typer.Context) -> str:
    """Return the current values of the options as TOML."""
    lines: list[str] = []
    for name, parameter in option_names(context).items():
        value: Any = context.params.get(parameter)
        if value not in (None, [], ()):
            lines.append(f"{name} = {_as_toml(value)}")
    return "\n".join(lines)


def _as_toml(value: Any) -> str:
    """Return a value as TOML, which has the syntax of JSON for these types."""
    if isinstance(value, list | tuple):
        return json.dumps([str(item) for item in cast("list[Any]", value)])
    return json.dumps(value if isinstance(value, bool | int | float) else str(value))

"""Options of a command in a TOML file: `--config FILE` reads them, `--print-config` writes them.

A flag wins over the file, and the file over the default.  Keys are the long names of the options.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import typer

from dlm_sampling.cli.io import UsageError
from dlm_sampling.errors import ARGUMENT_ALIASES, fold, suggestion

NOT_IN_FILE = frozenset({"config", "print_config", "help"})


def option_names(context: typer.Context) -> dict[str, str]:
    """Long name of each option, without dashes -> the parameter that it sets."""
    return {
        max(parameter.opts, key=len).lstrip("-"): str(parameter.name)
        for parameter in context.command.params
        if parameter.name not in NOT_IN_FILE and parameter.opts[0].startswith("-")
    }


def read_config(context: typer.Context, path: Path | None) -> Path | None:
    """Make the values of the file the defaults of the command's options.

    Raises:
        UsageError: not TOML, or a key that is no option.
        OSError: the file cannot be read.
    """
    if path is None:
        return None
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML ({error}).") from error
    known = {fold(name): parameter for name, parameter in option_names(context).items()}
    defaults: dict[str, Any] = {}
    for key, value in table.items():
        if fold(key) not in known:
            hint = suggestion(fold(key), known, ARGUMENT_ALIASES)
            raise UsageError(f"{path}: unknown key '{key}'. {hint or 'Keys are option names.'}")
        is_table = isinstance(value, dict)
        defaults[known[fold(key)]] = _as_pairs(cast("dict[str, Any]", value)) if is_table else value
    context.default_map = defaults
    return path


def _as_pairs(table: Mapping[str, Any]) -> list[str]:
    """The table `set` as --set takes it."""
    return [f"{name}={value}" for name, value in table.items()]


def write_config(context: typer.Context) -> str:
    """The options in force, as TOML."""
    lines: list[str] = []
    for name, parameter in option_names(context).items():
        value: Any = context.params.get(parameter)
        if value is not None and value != []:
            lines.append(f"{name} = {_as_toml(value)}")
    return "\n".join(lines)


def _as_toml(value: Any) -> str:
    """Booleans, numbers, texts and lists of texts, which TOML writes as JSON does."""
    if isinstance(value, list | tuple):
        return json.dumps([str(item) for item in cast("list[Any]", value)])
    return json.dumps(value if isinstance(value, bool | int | float) else str(value))

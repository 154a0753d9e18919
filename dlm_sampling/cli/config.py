"""Read options from a TOML file (`--config FILE`), and print them as TOML (`--print-config`).

A flag overrides the file, and the file overrides the default.  Keys are the long option names, and
`prompt` for the prompts.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import typer

from dlm_sampling.cli.io import read_file
from dlm_sampling.cli.origin import ConfigFile, from_file, of_samplers
from dlm_sampling.errors import ARGUMENT_ALIASES, UsageError, fold, suggestion

_PLACE = re.compile(r" \(at (?:(line \d+, column \d+)|end of document)\)")
NOT_IN_FILE = frozenset({"config", "print_config", "help"})


def option_names(context: typer.Context) -> dict[str, str]:
    """Map the long name of each option, without dashes, and of arguments to the parameter."""
    return {
        max(parameter.opts, key=len).lstrip("-"): str(parameter.name)
        for parameter in context.command.params
        if parameter.name not in NOT_IN_FILE
    }


def read_config(context: typer.Context, path: Path | None) -> Path | None:
    """Use the values of the file as defaults of the command's options.

    Raises:
        UsageError: the file cannot be read or is not TOML, or a key is not an option.
    """
    if path is None:
        return None
    text = read_file("--config", path)
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        said, last = str(error), f"line {len(text.splitlines())}, at its end"
        place = _PLACE.search(said)
        where = last if place is None or place[1] is None else place[1]
        what = said if place is None else said[: place.start()]
        raise UsageError(f"--config {path}, {where}: is not TOML ({what}).") from error
    known = {fold(name): parameter for name, parameter in option_names(context).items()}
    repeated = {p.name for p in context.command.params if p.multiple or p.nargs == -1}
    defaults: dict[str, Any] = {}
    values: dict[str, tuple[str, Any]] = {}
    for key, value in table.items():
        if fold(key) not in known:
            hint = suggestion(fold(key), known, ARGUMENT_ALIASES)
            if of_samplers(fold(key), known):
                hint = f"It is a parameter of samplers: write it below [set], {key} = {value}."
            raise UsageError(f"{path}: unknown key '{key}'. {hint or 'Keys are option names.'}")
        name = known[fold(key)]
        if isinstance(value, dict):
            defaults[name] = _as_pairs(cast("dict[str, Any]", value))
        else:
            single = name in repeated and not isinstance(value, list)
            defaults[name] = [value] if single else value
        values[key.replace("_", "-")] = name, defaults[name]
    context.default_map = defaults
    context.find_root().obj = ConfigFile(path, context, values)
    return path


def _as_pairs(table: Mapping[str, Any]) -> list[str]:
    """Turn the table `set` into texts "name=value", as --set takes them."""
    return [f"{name}={value}" for name, value in table.items()]


def write_config(context: typer.Context) -> str:
    """Return the current values of the options and the prompts as TOML.

    Prompts of standard input are no option; a comment says that they are missing.
    """
    lines: list[str] = []
    for name, parameter in option_names(context).items():
        value: Any = context.params.get(parameter)
        if value not in (None, [], ()):
            lines.append(f"{name} = {_as_toml(value)}")
    if not (context.params.get("prompt") or context.params.get("source")):
        lines.insert(0, "# without prompts: give them as arguments, --input or standard input")
    return "\n".join(lines)


def prompts_of(context: typer.Context) -> tuple[list[str], str | None]:
    """Return prompts and input; what the command has of the two overrides what the file has.

    With both in one place both are returned.
    """
    given: dict[str, Any] = {name: context.params[name] for name in ("prompt", "source")}
    own = {name: value for name, value in given.items() if value and not from_file(context, name)}
    chosen = own or given
    return list(chosen.get("prompt") or ()), chosen.get("source")


def _as_toml(value: Any) -> str:
    """Return a value as TOML, which has the syntax of JSON for these types, but no halves."""
    if isinstance(value, list | tuple):
        plain: Any = [str(item) for item in cast("list[Any]", value)]
    else:
        plain = value if isinstance(value, bool | int | float) else str(value)
    return json.dumps(plain, ensure_ascii=False).replace("\x7f", "\\u007f")

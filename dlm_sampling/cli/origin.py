"""Tell a wrong value by where it stands: in the file of `--config`, or in `--set`."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import typer

from dlm_sampling.cli.exits import UnknownOption, verdict
from dlm_sampling.cli.parameters import parameter_names
from dlm_sampling.errors import ARGUMENT_ALIASES, UsageError, fold


@dataclass(frozen=True)
class ConfigFile:
    """Hold the file of `--config`, and the command whose options it gives.

    Fields:
        path: the file.
        context: of the command.
        values: its values by the names of the options, as they are written without dashes.
    """

    path: Path
    context: typer.Context
    values: dict[str, tuple[str, Any]]

    def retold(self, text: str) -> str:
        """Return a message about a wrong value with file and key, if the value is the file's.

        Options and arguments of `generate` are looked for by name, else a value in quotes.
        """
        own = {
            key: (parameter, value)
            for key, (parameter, value) in self.values.items()
            if from_file(self.context, parameter)
        }
        for key in own:
            told = re.sub(rf"--{re.escape(key)}(?![\w-])", f"{self.path}, {key}", text)
            if told != text or re.match(rf"'?{re.escape(fold(key))}'?[=: ]", text):
                return told if told != text else f"{self.path}, {text}"
        _, pairs = own.get("set", ("", []))
        names = [str(pair).partition("=")[0] for pair in pairs]
        if any(text.startswith(f"{name}=") or f"'{name}'" in text for name in names):
            return f"{self.path}, set: {text}"
        for key, (_, value) in own.items():
            if isinstance(value, str) and f"'{value}'" in text:
                return f"{self.path}, {key}: {text}"
        return text


def from_file(context: typer.Context, parameter: str) -> bool:
    """Return whether the value of a parameter is that of the file of `--config`."""
    source = context.get_parameter_source(parameter)
    return source is not None and source.name == "DEFAULT_MAP"


class Program(Protocol):
    """Define what is read of a program's context, in the copy of click that typer brings."""

    obj: Any


@contextmanager
def told_at_its_place(context: Program, words: Sequence[str]) -> Generator[None]:
    """Turn an error about a wrong option into one that says where the value stands, if need be.

    Args:
        context: of the program; `read_config` leaves the `ConfigFile` in it.
        words: the arguments of the program.

    Raises:
        UsageError: in place of another error of wrong usage.
    """
    try:
        yield
    except Exception as error:
        code, text = verdict(error)
        before = told = text.removeprefix("Error: ")
        if code != 2 or not text:
            raise
        if isinstance(error, UnknownOption):
            told = _as_parameter(error, words) or told
        if isinstance(context.obj, ConfigFile):
            told = context.obj.retold(told)
        if told == before:
            raise
        raise UsageError(told) from error


def _as_parameter(error: UnknownOption, words: Sequence[str]) -> str | None:
    """Return the message about an option that is a parameter of samplers, None for any other."""
    option = error.option_name
    name = fold(option.lstrip("-"))
    options = [] if error.ctx is None else [o for p in error.ctx.command.params for o in p.opts]
    if "--set" not in options or not of_samplers(name, options):
        return None
    joined = [word.partition("=")[2] for word in words if word.startswith(f"{option}=")]
    behind = [after for word, after in pairwise(words) if word == option]
    value = next(iter([*joined, *behind]), "VALUE")
    return f"Unknown option '{option}'. It is a parameter of samplers: --set {name}={value}"


def of_samplers(name: str, options: Iterable[str]) -> bool:
    """Return whether a name is a parameter of a sampler, and no other library's for an option."""
    ours, _ = ARGUMENT_ALIASES.get(name, ("", ""))
    if ours in [fold(option.lstrip("-")) for option in options]:
        return False
    return name in parameter_names()

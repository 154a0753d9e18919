"""Read and write the words that the subcommands of `eval` share."""

from __future__ import annotations

import shlex
from collections.abc import Container
from pathlib import Path
from typing import Any

import typer

from dlm_sampling.errors import UsageError

OWN, NONE, BOOKS = "own", "none", "books"


def check_out(out: Path) -> None:
    """Refuse a result folder that is a file.

    Raises:
        UsageError: it is one.
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out}: is a file; name a folder.")


def read_lines(path: str, option: str) -> list[str]:
    """Return the lines of a text file that are not blank.

    Raises:
        UsageError: there is no such file, it is no text, or it has no such line.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UsageError(f"{option} {path}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{option} {path}: is no text in UTF-8.") from error
    found = [line for line in lines if line.strip()]
    if not found:
        raise UsageError(f"{option} {path}: holds no line of text.")
    return found


def command_line(context: typer.Context) -> str:
    """Return the command with every value that was given, for a report."""
    words = ["dlm-sampling", "eval", str(context.info_name)]
    for parameter in context.command.params:
        value: Any = context.params.get(str(parameter.name))
        if value is None or value in ([], ()) or not is_given(context, str(parameter.name)):
            continue
        option = max(parameter.opts, key=len)
        values: list[Any] = [*value] if isinstance(value, list | tuple) else [value]
        if not option.startswith("-"):
            words += map(str, values)
        elif value is True:
            words.append(option)
        else:
            for one in values:
                words += [option, str(one)]
    return shlex.join(words)


def is_given(context: typer.Context, name: str) -> bool:
    """Return whether a parameter stands on the command line."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def refuse_these(context: typer.Context, names: Container[str], reason: str) -> None:
    """Refuse every parameter on the command line that has one of these names.

    Raises:
        UsageError: see `refuse_others`.
    """
    every = {str(parameter.name) for parameter in context.command.params}
    refuse_others(context, {name for name in every if name not in names}, reason)


def check_judging(context: typer.Context, reference: str | None, features: str | None) -> None:
    """Refuse options of references or features on the command line where there are none.

    Raises:
        UsageError: names the option.
    """
    if reference == NONE:
        refuse_these(
            context,
            ("reference_column", "mauve_seeds"),
            "goes with references, here --reference none.",
        )
    if features == NONE:
        refuse_these(context, ("mauve_seeds",), "goes with MAUVE, here --features none.")


def words_of(text: str) -> list[str]:
    """Return what stands between commas, without spaces around it."""
    return [word.strip() for word in text.split(",")]


def refuse_others(context: typer.Context, fitting: Container[str], reason: str) -> None:
    """Refuse every parameter on the command line that does not fit.

    Args:
        context: of the command.
        fitting: names of the parameters that fit.
        reason: ends the message.

    Raises:
        UsageError: names the option.
    """
    for parameter in context.command.params:
        if is_given(context, str(parameter.name)) and parameter.name not in fitting:
            option = max(parameter.opts, key=len)
            raise UsageError(f"{option if option.startswith('-') else 'MODEL'}: {reason}")

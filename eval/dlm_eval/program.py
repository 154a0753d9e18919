"""Start the modules of this package that are run by `python -m`, and check the files they write."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import typer
from typer.main import get_command

from dlm_sampling.cli import end
from dlm_sampling.errors import UsageError

WRONG_PATHS = (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError)


def command_of(module: str) -> str:
    """Return the command that runs a module with the arguments of this process."""
    return shlex.join(["python", "-m", module, *sys.argv[1:]])


def start(main: Callable[..., None]) -> NoReturn:
    """Run the main function of a module with the arguments of the command line.

    An error is one line; the exit codes are those of `dlm-sampling`, with 2 for a wrong path.
    """
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command()(main)

    def run(words: list[str]) -> None:
        command = get_command(app)
        try:
            with command.make_context("python -m dlm_eval...", words) as context:
                command.invoke(context)
        except WRONG_PATHS as error:
            text = str(error) if error.filename is None else f"{error.filename}: {error.strerror}."
            raise UsageError(text) from error

    end(run, sys.argv[1:])


def check_result(*files: Path) -> None:
    """Make the folders of result files, before the work that is written to them.

    Raises:
        UsageError: a file is a folder, or its folder cannot be made.
    """
    for file in files:
        if file.is_dir():
            raise UsageError(f"{file}: is a folder; name a file.")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"{file}: its folder cannot be made: {error.strerror}.") from error

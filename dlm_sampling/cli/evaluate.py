"""Run `dlm-sampling eval`: pass its words on to the commands of `dlm_eval`."""

from __future__ import annotations

from typing import Any

import typer
from typer.main import get_command

# Every word behind `eval`, options and --help included, belongs to the command of `dlm_eval`.
PASSED_ON: dict[str, Any] = {
    "ignore_unknown_options": True,
    "allow_extra_args": True,
    "allow_interspersed_args": False,
    "help_option_names": [],
}


def evaluate(context: typer.Context) -> None:
    """Evaluate a model, its texts or its samplers (needs `pip install ".[eval]"`)."""
    from dlm_eval.cli.app import PROGRAM, app

    command = get_command(app)
    with command.make_context(PROGRAM, context.args) as inner:
        command.invoke(inner)

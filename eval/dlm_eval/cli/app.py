"""Define the command `dlm-sampling eval`; each subcommand is one file of this folder.

A subcommand raises `dlm_sampling.errors.UsageError` for a wrong argument.  Its caller, the command
`dlm-sampling` or `python -m dlm_eval`, turns every error into one line and an exit code.
"""

from __future__ import annotations

import typer

from dlm_eval.cli.bound import bound
from dlm_eval.cli.cache import cache
from dlm_eval.cli.compare import compare
from dlm_eval.cli.show import show
from dlm_eval.cli.tasks import tasks
from dlm_eval.cli.text import text

PROGRAM = "dlm-sampling eval"

app = typer.Typer(
    name=PROGRAM,
    help="Evaluate a model, its texts or its samplers.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _root() -> None:
    """Evaluate a model, its texts or its samplers."""


app.command()(bound)
app.command()(tasks)
app.command()(text)
app.command()(compare)
app.command()(cache)
app.command()(show)

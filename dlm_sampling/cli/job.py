"""Run `dlm-sampling generate --output FOLDER/`: a job that the same command resumes."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from types import FrameType

from dlm_sampling.cli.generate import machine_of
from dlm_sampling.denoisers import Denoiser
from dlm_sampling.errors import FailedRowsError, NoLawError, UsageError
from dlm_sampling.jobs import Job, Rank, run_job
from dlm_sampling.jobs.manifest import DifferentJobError
from dlm_sampling.text.prompt_rows import Prepared

STOPPING = (signal.SIGINT, signal.SIGTERM)


def run_folder(job: Job, denoiser: Denoiser, rank: Rank) -> tuple[str, str]:
    """Run a job, and return its result and where it ran, for the line to close with.

    The first interrupt finishes the batch that is running, the second ends at once.

    Raises:
        FailedRowsError: the job is done and rows have failed, or too many failed.
        KeyboardInterrupt: the job was interrupted.
    """
    machine = ""
    before = job.rows_done() if job.folder.is_dir() else 0

    def begun(prepared: Prepared) -> None:
        nonlocal machine
        machine = machine_of(prepared.generation, job.batch_rows)

    try:
        with one_interrupt_asks() as stop:
            report = run_job(job, denoiser, rank=rank, stop=stop, begun=begun)
    except DifferentJobError as error:
        raise error.spelled(as_option) from None
    except BaseException as error:
        # A value that cannot be stops the same command again, and so do failed rows.
        wrong = isinstance(error, ValueError) and not isinstance(error, NoLawError)
        if job.folder.is_dir() and not wrong:
            rows = f"{job.rows_done()} of {len(job.prompts) * job.samples} rows are in {job.folder}"
            more = "" if isinstance(error, FailedRowsError) else "; the same command goes on"
            error.add_note(f"{rows}{more}.")
        raise
    if not report.done:
        done = f"{job.rows_done()} of {report.rows} rows; other processes are still at work"
        return done, machine
    if report.errors:
        raise FailedRowsError(
            f"{report.errors} of {report.rows} rows in {job.folder} have an error, the others are "
            "done; column 'error' says why."
        )
    idle = "nothing was left to do, " if before == report.rows else ""
    return f"{idle}{report.rows} rows in {job.folder}", machine


@contextmanager
def one_interrupt_asks() -> Generator[Callable[[], bool]]:
    """Make the first Ctrl-C or SIGTERM ask for the end, and the second one interrupt."""
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    before = {number: signal.signal(number, ask) for number in STOPPING}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


OPTIONS = {
    "file_format": "--format",
    "chat_template_kwargs": "--template",
    "constraint": "constraint (--regex, --json-schema, --grammar, --banned, --required)",
    **{
        name: name  # no options: they follow from others, or from the checkpoint
        for name in (
            *("prompts", "every_step", "stop_token_ids", "steps_per_block", "align_blocks"),
            *("causal_blocks", "format", "crossing", "suppress_tokens", "logits_processor"),
        )
    },
}
"""How the command spells an argument of `generate`, where it is not the name with dashes."""


def as_option(name: str) -> str:
    """Return the option of the command for an argument of `generate`; a part keeps its dots."""
    return OPTIONS.get(name, name if "." in name else f"--{name.replace('_', '-')}")


def error_limit(text: str, prompts: Sequence[object], samples: int) -> int:
    """Return the rows that may fail, from a number or a share such as "1%".

    Raises:
        UsageError: the text is neither.
    """
    total = len(prompts) * samples
    if text.isdecimal():
        return int(text)
    share = re.fullmatch(r"(\d+(?:\.\d+)?)%", text)
    if share is None or float(share[1]) > 100:
        raise UsageError(f"--max-errors {text}: must be a number of rows, or a share such as 1%.")
    return max(1, int(total * float(share[1]) / 100)) if float(share[1]) else 0

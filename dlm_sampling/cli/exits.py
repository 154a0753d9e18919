"""End the command: choose the exit code and the line to print."""

from __future__ import annotations

import logging
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from typing import Any, NoReturn, Protocol, runtime_checkable

import typer

from dlm_sampling.errors import (
    ARGUMENT_ALIASES,
    DeviceLostError,
    FailedRowsError,
    JobMismatchError,
    NoLawError,
    SamplingWarning,
    UsageError,
    fold,
    suggestion,
    unknown_choice,
)
from dlm_sampling.viewers.safe_text import one_line

LOG_LEVELS = ("debug", "info", "warning", "error")
EXIT_CODES: Mapping[type[Exception], int] = {
    FailedRowsError: 3,
    JobMismatchError: 4,
    DeviceLostError: 70,
    NoLawError: 1,
    ValueError: 2,  # the value of an option, or a prompt, cannot be
}
"""The code of the first class that fits an error; 1 for any other."""


class Parameter(Protocol):
    """Define the attributes read of an option or argument of a command."""

    opts: list[str]


class Command(Protocol):
    """Define the attributes read of a command."""

    params: Sequence[Parameter]


class CommandContext(Protocol):
    """Define the attributes read of a command's context."""

    command: Command


@runtime_checkable
class ParserError(Protocol):
    """Define an error of the parser: typer has its own copy of click, or takes click's."""

    def format_message(self) -> str:
        """Return the message."""
        ...


@runtime_checkable
class UnknownOption(Protocol):
    """Define the parser's error of an option that does not exist."""

    option_name: str
    possibilities: Sequence[str] | None
    ctx: CommandContext | None


@runtime_checkable
class WrongValue(Protocol):
    """Define the parser's error of a value that an option does not take."""

    param: Parameter | None
    __cause__: BaseException | None


@runtime_checkable
class ValueProblems(Protocol):
    """Define the cause of such an error, as the library that reads values for typer states it."""

    def errors(self) -> Sequence[Mapping[str, Any]]:
        """Return the problems, each with its type, the value, and the limits of the option."""
        ...


_ALLOWED: Mapping[str, str] = {
    "int_parsing": "must be a whole number, such as 4",
    "int_parsing_size": "must be a smaller whole number, such as 4",
    "float_parsing": "must be a number, such as 0.5",
    "bool_parsing": "must be true or false",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
}


def end(run: Callable[[list[str]], None], words: list[str]) -> NoReturn:
    """Run a program, and end it with an exit code and at most one line about its error.

    Args:
        run: is given the words.
        words: arguments of the program; `--debug` among them adds the traceback of an error.
    """
    last = words.index("--") if "--" in words else len(words)
    debug = "--debug" in words[:last]
    words = [word for i, word in enumerate(words) if i >= last or word != "--debug"]
    error: BaseException | None = None
    try:
        quieten(debug)
        with terminate_as_interrupt():
            run(words)
        sys.stdout.flush()
    except BaseException as raised:  # every exit of the program passes here
        error = raised
    with undisturbed():
        code = tell_end(error, debug)
        close_stdout()
    sys.exit(code)


def tell_end(error: BaseException | None, debug: bool) -> int:
    """Print the line about how a program has ended, and return its exit code."""
    if error is None:
        return 0
    code, text = verdict(error)
    if debug and code not in (0, 130):
        traceback.print_exception(error)
    if text:
        note(text)
    return code


def note(text: str) -> None:
    """Write one line to standard error; a closed stream is ignored."""
    if sys.stderr is not None:  # pyright: ignore[reportUnnecessaryComparison]
        with suppress(OSError, ValueError):
            print(one_line(text), file=sys.stderr, flush=True)


QUIET = {
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_VERBOSITY": "error",  # each of five tries to reach the hub is a warning there
    "DATASETS_VERBOSITY": "critical",  # an error is logged there, and raised as well
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
}
"""Variables that keep other libraries from writing between our lines, unless they are set."""


def quieten(debug: bool) -> None:
    """Show our warnings and no other library's; the environment variable DLM_LOG sets the level."""
    if sys.stdout is None:  # pyright: ignore[reportUnnecessaryComparison]
        raise OSError("Standard output is closed: there is nowhere to write the result.")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    level = os.environ.get("DLM_LOG", "debug" if debug else "warning").lower()
    if level not in LOG_LEVELS:
        raise UsageError(str(unknown_choice("DLM_LOG", level, LOG_LEVELS)))
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    logger = logging.getLogger("dlm_sampling")
    logger.handlers[:] = [handler]
    logger.setLevel(level.upper())
    if level != "debug":
        warnings.simplefilter("ignore")
        warnings.simplefilter("once", SamplingWarning)
        warnings.showwarning = _show_warning
        os.environ.update({name: os.environ.get(name, value) for name, value in QUIET.items()})
    if sys.stderr is None or not sys.stderr.isatty():  # pyright: ignore[reportUnnecessaryComparison]
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def _show_warning(message: Warning | str, *_: object) -> None:
    """Log a warning as one line, without the place in the code that it comes from."""
    logging.getLogger("dlm_sampling").warning(one_line(str(message)))


def verdict(error: BaseException) -> tuple[int, str]:
    """Return the exit code of an exception, and the line to print, its notes included."""
    code, text = _verdict(error)
    notes: list[str] = vars(error).get("__notes__", [])
    return code, " ".join([text, *notes]) if text else ""


def _verdict(error: BaseException) -> tuple[int, str]:
    if isinstance(error, typer.Exit):
        return error.exit_code, ""
    if isinstance(error, SystemExit):
        return (error.code if isinstance(error.code, int) else 1), ""
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return 130, "Interrupted."
    if isinstance(error, BrokenPipeError):
        return 1, "Error: the reader of the output closed it before everything was written."
    if isinstance(error, ParserError):
        return 2, usage_text(error)
    code = next((code for kind, code in EXIT_CODES.items() if isinstance(error, kind)), 1)
    return code, f"Error: {reason(error)}"


def usage_text(error: ParserError) -> str:
    """Return one line about a wrong option or argument, with the closest valid option.

    Option names of other libraries lead to the name used here.
    """
    message = error.format_message()
    if isinstance(error, UnknownOption) and error.ctx is not None:
        option = error.option_name
        known = {fold(o.lstrip("-")): o for p in error.ctx.command.params for o in p.opts}
        hint = suggestion(fold(option.lstrip("-")), known, ARGUMENT_ALIASES)
        for plain, dashed in known.items():
            hint = hint.replace(f"'{plain}'", f"'{dashed}'").replace(
                f"is {plain} ", f"is {dashed} "
            )
        return f"Error: Unknown option '{option}'. {hint or 'List all: --help'}"
    if isinstance(error, WrongValue) and isinstance(error.__cause__, ValueProblems):
        problem = error.__cause__.errors()[0]
        allowed = _ALLOWED.get(problem["type"])
        if allowed is not None and error.param is not None:
            limits = problem.get("ctx", {})
            return f"Error: {error.param.opts[0]} {problem['input']}: {allowed.format(**limits)}."
    if message.startswith("Usage:"):  # a command without arguments is answered by its help
        with suppress(OSError):
            print(message, file=sys.stderr)
        return ""
    return f"Error: {message}"


def reason(error: BaseException) -> str:
    """Return the message of an error as one line of at most about 600 characters."""
    if isinstance(error, OSError) and error.filename is not None:
        text = f"{error.filename}: {error.strerror}."
    elif isinstance(error, ValueError | TypeError | OSError | ImportError | RuntimeError):
        text = str(error) or type(error).__name__
    else:
        text = f"{type(error).__name__}: {error} (--debug shows where)"
    text = one_line(text)
    # The end says what to do.
    return text if len(text) <= 600 else f"{text[:450]} ... {text[-150:]} (--debug shows all)"


def close_stdout() -> None:
    """Flush standard output; if its reader is gone, redirect it so that exit raises no error."""
    if sys.stdout is None:  # pyright: ignore[reportUnnecessaryComparison]
        return
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def ignore_interrupts() -> dict[int, Any]:
    """Ignore Ctrl-C and SIGTERM from now on, and return what happened at them before."""
    return {n: signal.signal(n, signal.SIG_IGN) for n in (signal.SIGINT, signal.SIGTERM)}


@contextmanager
def undisturbed() -> Generator[None]:
    """Run the block without interrupts: the program ends already, and a second one adds nothing."""
    before = ignore_interrupts()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


AGAIN = 0.01  # seconds


@contextmanager
def terminate_as_interrupt() -> Generator[None]:
    """Treat SIGTERM like Ctrl-C, so that open files and progress bars are closed.

    Python drops an exception that comes up in a finaliser (`__del__`, a callback of a weak
    reference): an interrupt that fell into one comes again a moment later.
    """
    report, timed = sys.unraisablehook, hasattr(signal, "SIGALRM")  # not on Windows

    def dropped(found: sys.UnraisableHookArgs) -> None:
        if timed and issubclass(found.exc_type, KeyboardInterrupt):
            signal.signal(signal.SIGALRM, signal.default_int_handler)
            signal.setitimer(signal.ITIMER_REAL, AGAIN)
        else:
            report(found)

    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    alarm = signal.getsignal(signal.SIGALRM) if timed else None
    sys.unraisablehook = dropped
    try:
        yield
    finally:
        sys.unraisablehook = report
        signal.signal(signal.SIGTERM, before)
        if timed and signal.getsignal(signal.SIGALRM) is not alarm:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, alarm)

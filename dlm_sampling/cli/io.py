"""Read prompts and sampler parameters from the command line, and open the output."""

from __future__ import annotations

import inspect
import json
import os
import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TextIO, Union, cast, get_args, get_origin, get_type_hints

from dlm_sampling.embedded import embedded_models
from dlm_sampling.errors import closest, suggestion, unknown_choice

LINE_LIMIT = 16 * 2**20


class UsageError(ValueError):
    """Signal wrong usage of the command, as opposed to a failure; exit code 2."""


@dataclass(frozen=True)
class PromptItem:
    """Hold one prompt of the command line.

    Fields:
        prompt: text, or chat messages.
        name: the "id" of its JSON line, or None.
    """

    prompt: str | list[dict[str, Any]]
    name: Any = None


def collect_prompts(arguments: Sequence[str], source: Path | None) -> list[PromptItem]:
    """Collect the prompts from the arguments, a file, or piped standard input.

    Raises:
        UsageError: prompts come from two places or none, or a line has a wrong form.
        OSError: the file cannot be read.
    """
    if arguments and source is not None:
        raise UsageError("Prompts are given twice: as arguments and with --input. Choose one.")
    if arguments:
        return [PromptItem(text) for text in arguments]
    if source is None and (sys.stdin is None or sys.stdin.isatty()):  # pyright: ignore[reportUnnecessaryComparison]
        raise UsageError(
            'No prompt. Give one ("" for text without a prompt), --input FILE, or pipe lines in.'
        )
    name = "standard input" if source is None or str(source) == "-" else str(source)
    items = list(_read_items(source, name))
    if not items:
        raise UsageError(f"No prompt in {name}: write one per line, or JSON lines with a 'prompt'.")
    return items


def _read_items(source: Path | None, name: str) -> Iterator[PromptItem]:
    """Yield one item per line that is not blank.

    The suffix of the file, or else its first line, decides whether lines are JSON.
    """
    is_json = name.endswith((".jsonl", ".ndjson")) or None
    for number, line in enumerate(_read_lines(source, name), start=1):
        if not line.strip():
            continue
        if is_json is None:
            is_json = not name.endswith(".txt") and _looks_like_json(line)
        yield _parse_json(line, f"{name}, line {number}") if is_json else PromptItem(line)


def _read_lines(source: Path | None, name: str) -> Iterator[str]:
    standard = source is None or str(source) == "-"
    with sys.stdin.buffer if standard else cast(Path, source).open("rb") as file:
        while raw := file.readline(LINE_LIMIT + 1):
            if len(raw) > LINE_LIMIT:
                raise UsageError(f"{name}: a line is longer than {LINE_LIMIT >> 20} MiB.")
            try:
                yield raw.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise UsageError(f"{name} is not UTF-8 text ({error.reason}).") from error


def _looks_like_json(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _parse_json(line: str, place: str) -> PromptItem:
    """Parse an object with "prompt" (text) or "messages" (chat), or a bare string."""
    try:
        value: Any = json.loads(line)
    except ValueError as error:
        raise UsageError(f"{place} is not JSON ({error}).") from error
    record = cast("dict[str, Any]", value) if isinstance(value, dict) else {"prompt": value}
    prompt = record.get("prompt", record.get("messages"))
    if not isinstance(prompt, str | list):
        raise UsageError(f'{place}: needs "prompt" (a string) or "messages" (a list of messages).')
    return PromptItem(cast(Any, prompt), record.get("id"))


def check_model(name: str) -> str:
    """Return `name` after checking that it is not a misspelt embedded model.

    Raises:
        UsageError: the name is close to that of an embedded model.
    """
    embedded = embedded_models()
    if "/" not in name and name not in embedded and not Path(name).exists():
        near = closest(name, embedded)
        if near is not None:
            raise UsageError(f"Unknown model '{name}'. Did you mean '{near}', which is embedded?")
    return name


def parse_settings(pairs: Sequence[str], build: Any, sampler: str) -> dict[str, Any]:
    """Return the parameters of `--set name=value ...`, typed as the sampler declares them.

    Args:
        pairs: texts "name=value".
        build: the sampler's class or factory.
        sampler: its name, for messages.

    Raises:
        UsageError: no "=", an unknown parameter, or a value of another type.
    """
    parameters = inspect.signature(build).parameters
    hints = {name: hint for name, hint in get_type_hints(build).items() if name in parameters}
    settings: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise UsageError(f"--set {pair}: write name=value.")
        if name not in hints:
            known = ", ".join(hints) or "none"
            hint = suggestion(name, hints) or f"Its parameters: {known}."
            raise UsageError(f"Sampler '{sampler}' has no parameter '{name}'. {hint}")
        try:
            settings[name] = parse_value(text, hints[name], name)
        except ValueError as error:
            raise UsageError(f"--set {error}") from error
    return settings


_WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def parse_value(text: str, hint: Any, name: str) -> Any:
    """Convert `text` to the type of an annotation.

    Raises:
        ValueError: the text is not of that type.
    """
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        if NoneType in parts and text.lower() == "none":
            return None
        rest = [part for part in parts if part is not NoneType]
        return _first_that_fits(text, rest, name)
    if origin is Literal:
        return _choose(text, parts, name)
    if origin is tuple:
        return tuple(parse_value(item, parts[0], name) for item in text.split(",") if item)
    if hint is bool:
        return _WORDS[_choose(text.lower(), tuple(_WORDS), name)]
    if hint not in (int, float, str):
        raise ValueError(f"{name}: can be set from Python only, as a sampler object.")
    try:
        return hint(text)
    except ValueError:
        raise ValueError(f"{name}={text}: must be of type {hint.__name__}.") from None


def _choose(text: str, choices: Sequence[Any], name: str) -> Any:
    for choice in choices:
        if str(choice) == text:
            return choice
    raise unknown_choice(name, text, choices)


def _first_that_fits(text: str, hints: Sequence[Any], name: str) -> Any:
    for hint in hints[:-1]:
        try:
            return parse_value(text, hint, name)
        except ValueError:
            continue
    return parse_value(text, hints[-1], name)


@contextmanager
def open_output(path: Path | None) -> Generator[TextIO]:
    """Open standard output, or a file that appears under its name only once it is complete.

    Raises:
        OSError: the file cannot be written; this is checked before any work.
    """
    if path is None or str(path) == "-":
        yield sys.stdout
        sys.stdout.flush()
        return
    if path.exists() and not path.is_file():
        with path.open("w", encoding="utf-8") as file:
            yield file
        return
    if path.exists() and not os.access(path, os.W_OK):
        raise PermissionError(13, "Permission denied", str(path))
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        file = partial.open("x", encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise type(error)(error.errno, error.strerror, str(path)) from error
    try:
        with file:
            yield file
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)

"""Read prompts, names of models and sampler parameters from the command line."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

from dlm_sampling.embedded import embedded_models
from dlm_sampling.errors import UsageError, closest, suggestion, unknown_choice
from dlm_sampling.text.prompt_files import PromptSource, read_prompts, read_stream
from dlm_sampling.text.prompt_items import PromptItem

if TYPE_CHECKING:
    from dlm_sampling.caches import AnyPolicy
    from dlm_sampling.constraints import Constraint
    from dlm_sampling.samplers import Entry


def collect_prompts(arguments: Sequence[str], source: PromptSource | None) -> list[PromptItem]:
    """Collect the prompts from the arguments, a file or data set, or piped standard input.

    Raises:
        UsageError: prompts come from two places or none, or a line has a wrong form.
        OSError: the file cannot be read.
    """
    if arguments and source is not None:
        raise UsageError("Prompts are given twice: as arguments and with --input. Choose one.")
    if arguments:
        return [PromptItem(text) for text in arguments]
    if source is not None and source.path != "-":
        try:
            return read_prompts(source)
        except FileNotFoundError as error:
            near = _nearby(Path(source.path))
            raise UsageError(f"--input {source.path}: no such file or folder.{near}") from error
    if source is None and (sys.stdin is None or sys.stdin.isatty()):  # pyright: ignore[reportUnnecessaryComparison]
        raise UsageError(
            'No prompt. Give one ("" for text without a prompt), --input FILE, or pipe lines in.'
        )
    column = None if source is None else source.column
    return read_stream(sys.stdin.buffer, "standard input", column)


def read_constraint(
    regex: str | None,
    schema: Path | None,
    grammar: Path | None,
    grammar_depth: int | None,
    banned: Sequence[str] | None,
    required: Sequence[str] | None,
) -> Constraint | None:
    """Return the constraint of the options, None if none of them is given.

    Raises:
        UsageError: a file cannot be read, a word is empty, or an option lacks the one it goes with.
    """
    if grammar_depth is not None and grammar is None:
        raise UsageError(f"--grammar-depth {grammar_depth}: goes with --grammar FILE.")
    if not (banned or required) and regex is schema is grammar is None:
        return None
    from dlm_sampling.constraints.constraint import DEPTH, Constraint  # which imports torch

    texts = {
        option: None if path is None else read_file(option, path)
        for option, path in (("--json-schema", schema), ("--grammar", grammar))
    }
    depth = DEPTH if grammar_depth is None else grammar_depth
    try:
        if texts["--json-schema"] is not None:
            with _naming(f"--json-schema {schema}", "json_schema"):
                Constraint(json_schema=texts["--json-schema"])
        if texts["--grammar"] is not None:
            with _naming(f"--grammar {grammar}", "constraint: grammar"):
                Constraint(grammar=texts["--grammar"], grammar_depth=depth)
        return Constraint(
            regex=regex,
            json_schema=texts["--json-schema"],
            banned=banned or (),
            required=required or (),
            grammar=texts["--grammar"],
            grammar_depth=depth,
        )
    except ValueError as error:
        raise UsageError(str(error)) from None


@contextmanager
def _naming(place: str, told: str) -> Generator[None]:
    """Name the file in an error about its text, in place of the argument that it became.

    Raises:
        UsageError: in place of that error.
    """
    try:
        yield
    except ValueError as error:
        rest = str(error).removeprefix(told)
        raise UsageError(f"{place}{rest}" if rest[:1] in ",:" else f"{place}: {error}") from None


def read_file(option: str, path: Path) -> str:
    """Return the text of a file that an option names.

    Raises:
        UsageError: it is missing, a folder, cannot be read or is no text; the message names option,
            file and place.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(f"{option} {path}: no such file.{_nearby(path)}") from None
    except IsADirectoryError:
        raise UsageError(f"{option} {path}: is a folder; name a file.") from None
    except OSError as error:
        raise UsageError(f"{option} {path}: cannot be read ({error.strerror}).") from None
    except UnicodeDecodeError as error:
        lines = error.object[: error.start].split(b"\n")
        place = f"line {len(lines)}, byte {len(lines[-1]) + 1}"
        raise UsageError(f"{option} {path}, {place}: is no text in UTF-8.") from None


def _nearby(path: Path) -> str:
    """Return a sentence with the file whose name is spelled most like this one, "" if none is."""
    folder = path.parent
    near = closest(path.name, (p.name for p in folder.iterdir())) if folder.is_dir() else None
    return f" Did you mean '{folder / near}'?" if near else ""


def refuse_bad(items: Sequence[PromptItem]) -> None:
    """Refuse prompts of which one has a wrong value; a job makes error records of them instead.

    Raises:
        UsageError: the message names the line.
    """
    for item in items:
        if item.error is not None:
            raise UsageError(item.error)


def refuse_settings(prompts: Sequence[str], entry: Entry) -> None:
    """Refuse a prompt such as "eta=0.1" where the sampler has such a parameter.

    Raises:
        UsageError: there is one.
    """
    for text in prompts:
        name, equals, _ = text.partition("=")
        if equals and name in entry.parameters:
            raise UsageError(
                f"The prompt '{text}' is a parameter of '{entry.name}': write --set {text}. Texts "
                "that look so come from a file (--input) or standard input."
            )


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


def parse_settings(
    pairs: Sequence[str], build: Any, name: str, *, kind: str = "Sampler", option: str = "--set"
) -> dict[str, Any]:
    """Return the parameters of `--set name=value ...`, typed as the sampler declares them.

    Args:
        pairs: texts "name=value".
        build: the class or factory of the sampler, or of what `kind` says.
        name: its name, for messages.
        kind: word for what takes the parameters, for messages.
        option: the option that the pairs were given with, for messages.

    Raises:
        UsageError: no "=", an unknown parameter, or a value of another type.
    """
    parameters = inspect.signature(build).parameters
    # The annotations of functools.partial are those of what it calls.
    from dlm_sampling.samplers.registry import called  # which imports torch

    hints = get_type_hints(called(build))
    hints = {name: hint for name, hint in hints.items() if name in parameters}
    settings: dict[str, Any] = {}
    for pair in pairs:
        field, equals, text = pair.partition("=")
        if not equals:
            raise UsageError(f"{option} {pair}: write name=value.")
        if field not in hints:
            known = ", ".join(hints) or "none"
            hint = suggestion(field, hints) or f"Its parameters: {known}."
            raise UsageError(f"{kind} '{name}' has no parameter '{field}'. {hint}")
        try:
            settings[field] = parse_value(text, hints[field], field)
        except ValueError as error:
            raise UsageError(f"{option} {error}") from error
    return settings


def parse_cache(text: str, option: str = "--cache") -> str | AnyPolicy:
    """Return the cache of "name" or "name:field=value,...": a policy where fields are given.

    Raises:
        UsageError: fields of no policy, no such field, or a value of another type.
        ValueError: a value is out of range.
    """
    name, colon, rest = text.partition(":")
    if not colon:
        return text
    from dlm_sampling.caches import POLICIES

    if name not in POLICIES:
        raise UsageError(str(unknown_choice(option, name, POLICIES)))
    pairs = [pair for pair in rest.split(",") if pair]
    build = POLICIES[name]
    return build(**parse_settings(pairs, build, name, kind="Policy", option=option))


def parse_template(pairs: Sequence[str]) -> dict[str, Any] | None:
    """Return the arguments of `--template name=value ...`; None without any.

    A value is JSON, such as 3 or ["a"]; true, false and none in any case; or else text.

    Raises:
        UsageError: no "=".
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not (name and equals):
            raise UsageError(f"--template {pair}: write name=value, such as enable_thinking=false.")
        lower = text.lower()
        word = "null" if lower == "none" else lower if lower in ("true", "false") else text
        try:
            found[name] = json.loads(word)
        except ValueError:
            found[name] = text
    return found or None


def parse_times(text: str | None) -> list[float] | None:
    """Return the numbers of `--times 1,0.5,0`; None without any.

    Raises:
        UsageError: one is no number.
    """
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--times {text}: write falling numbers, such as 1,0.6,0.3,0.") from None


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

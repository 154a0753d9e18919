"""Describe samplers for `dlm-sampling samplers`, as text or JSON."""

from __future__ import annotations

import inspect
import re
import shlex
from typing import Any

from dlm_sampling.samplers import Entry

UNIFORM_MODEL = "tiny-books-uniform"
PLAIN = (bool, int, float, str, type(None))
_SECTION = re.compile(r"(?:Fields|Args):\n((?: .*\n?)+)")
_APART = re.compile(r"\n*(?:Fields|Args|NFE):.*(?:\n .*)*")
_ENTRY = re.compile(r"^    (\w[\w, ]*): (.*\n?(?:     .*\n?)*)", re.MULTILINE)
_POINTER = re.compile(r"see `(\w+)`[;,.]? ?(.*)", re.DOTALL)


def as_record(entry: Entry) -> dict[str, Any]:
    """Return the description of a sampler as values for JSON."""
    parameters = {k: v if isinstance(v, PLAIN) else repr(v) for k, v in entry.parameters.items()}
    return {
        "name": entry.name,
        "summary": entry.summary,
        "paper": entry.paper,
        "noise": list(entry.noise),
        "nfe": entry.nfe,
        "parameters": parameters,
    }


def describe(entry: Entry, *, whole: bool) -> str:
    """Return the description of a sampler as text, in full if `whole`."""
    values = {name: f"{name}={value!r}" for name, value in entry.parameters.items()}
    parameters = [f"Parameters: {', '.join(values.values()) or 'none'}"]
    text = entry.summary
    if whole:
        text = _APART.sub("", inspect.getdoc(entry.build) or "").strip() or text
        docs = parameter_docs(entry)
        parameters = [
            "Parameters:" + ("" if values else " none"),
            *(f"    {value}: {docs.get(name, '')}".rstrip(": ") for name, value in values.items()),
        ]
    lines = [
        entry.name,
        text,
        *([f"Paper: {entry.paper}"] if entry.paper else []),
        f"Noise: {', '.join(entry.noise)}",
        *parameters,
        f"NFE: {entry.nfe}",
        *([f"Example: {example(entry)}"] if whole else []),
    ]
    return "\n    ".join("\n".join(lines).splitlines()) + "\n"


def parameter_docs(entry: Entry) -> dict[str, str]:
    """Return the docstring text of each parameter.

    A field with the text "see `Base`" takes the text of that base class.  A function takes the
    texts of the sampler that it builds, unless its own docstring describes the parameter.
    """
    classes = type(entry.build()).__mro__
    texts = [_fields(vars(cls).get("__doc__") or "") for cls in classes]
    by_class = {cls.__name__: text for cls, text in zip(classes, texts, strict=True)}

    def found(name: str) -> str:
        return next((text[name] for text in texts if name in text), "")

    def resolved(text: str, name: str) -> str:
        pointer = _POINTER.match(text)
        base = by_class.get(pointer[1], {}).get(name) if pointer else None
        if pointer is None or base is None:
            return text
        more = pointer[2][:1].upper() + pointer[2][1:]
        return f"{resolved(base, name)} {more}".strip()

    own = {} if isinstance(entry.build, type) else _fields(inspect.getdoc(entry.build) or "")
    return {name: own.get(name) or resolved(found(name), name) for name in entry.parameters}


def _fields(doc: str) -> dict[str, str]:
    """Return the entries of the sections "Fields:" and "Args:", each on one line."""
    sections = "".join(_SECTION.findall(inspect.cleandoc(doc)))
    entries = [
        (names.split(", "), " ".join(text.split())) for names, text in _ENTRY.findall(sections)
    ]
    return {name: text for names, text in entries for name in names}


def example(entry: Entry) -> str:
    """Return an example command for the sampler, with its first parameter settable by text."""
    words = ["dlm-sampling", "generate", "Once upon a time"]
    words += [] if "absorbing" in entry.runs_on else ["--model", UNIFORM_MODEL]
    words += ["--sampler", entry.name]
    for name, value in entry.parameters.items():
        if isinstance(value, PLAIN):
            words += ["--set", f"{name}={str(value).lower() if value is None else value}"]
            break
    return shlex.join(words)

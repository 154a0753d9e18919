"""What `dlm-sampling samplers` says about a sampler."""

from __future__ import annotations

import inspect
import shlex
from typing import Any

from dlm_sampling.samplers import Entry

UNIFORM_MODEL = "tiny-books-uniform"
PLAIN = (bool, int, float, str, type(None))


def as_record(entry: Entry) -> dict[str, Any]:
    """What is known of a sampler, for JSON."""
    parameters = {k: v if isinstance(v, PLAIN) else repr(v) for k, v in entry.parameters.items()}
    return {
        "name": entry.name,
        "summary": entry.summary,
        "paper": entry.paper,
        "noise": list(entry.runs_on),
        "nfe": entry.nfe,
        "parameters": parameters,
    }


def describe(entry: Entry, *, whole: bool) -> str:
    """What is known of a sampler, for people."""
    parameters = ", ".join(f"{k}={v!r}" for k, v in entry.parameters.items()) or "none"
    lines = [
        entry.name,
        (inspect.getdoc(entry.build) or entry.summary) if whole else entry.summary,
        *([f"Paper: {entry.paper}"] if entry.paper else []),
        f"Noise: {', '.join(entry.runs_on)}",
        f"Parameters: {parameters}",
        f"NFE: {entry.nfe}",
        *([f"Example: {example(entry)}"] if whole else []),
    ]
    return "\n    ".join("\n".join(lines).splitlines()) + "\n"


def example(entry: Entry) -> str:
    """A command that uses the sampler, with the first parameter that a text can set."""
    words = ["dlm-sampling", "generate", "Once upon a time"]
    words += [] if "absorbing" in entry.runs_on else ["--model", UNIFORM_MODEL]
    words += ["--sampler", entry.name]
    for name, value in entry.parameters.items():
        if isinstance(value, PLAIN):
            words += ["--set", f"{name}={str(value).lower() if value is None else value}"]
            break
    return shlex.join(words)

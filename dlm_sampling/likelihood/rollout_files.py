"""Write a rollout as a safetensors file, and read it again.

Tensors are the fields of the rollout; the settings of the run are JSON in the header of the file.
A sampler is written by its class and its fields; classes are looked up in this library only.
"""

from __future__ import annotations

import importlib
import json
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

from safetensors import SafetensorError, safe_open
from safetensors import torch as of_torch
from torch import Tensor

from dlm_sampling.engine.request import Request
from dlm_sampling.errors import named
from dlm_sampling.likelihood.tables import Steps, Writes

FORMAT = 3
OWN = "dlm_sampling."


class RolloutFile(NamedTuple):
    """Hold the content of a file."""

    rows: dict[str, Tensor]  # by name
    steps: Steps
    writes: Writes
    request: Request
    facts: dict[str, Any]  # values for JSON


def write(file: RolloutFile, path: str | Path) -> None:
    """Write a file; see `Rollout.save`."""
    tensors = dict(file.rows)
    tensors |= {f"steps.{name}": part for name, part in file.steps._asdict().items()}
    tensors |= {f"writes.{name}": part for name, part in file.writes._asdict().items()}
    facts = {**file.facts, "format": FORMAT, "request": _written(file.request, "request")}
    kept = {name: part.detach().cpu().contiguous() for name, part in tensors.items()}
    library: Any = of_torch
    library.save_file(kept, str(path), {"rollout": json.dumps(facts)})


def read(path: str | Path) -> RolloutFile:
    """Read a file; see `Rollout.load`.

    Raises:
        ValueError: the file is no rollout, or of another version.
    """
    opened: Any = safe_open
    try:
        content = opened(str(path), "pt")
    except SafetensorError as error:
        raise ValueError(
            f"{path} is no rollout: no safetensors file ({error}); write it with Rollout.save."
        ) from None
    with content as file:
        told = cast("dict[str, str]", file.metadata() or {}).get("rollout")
        facts: dict[str, Any] = {} if told is None else json.loads(told)
        if facts.pop("format", None) != FORMAT:
            raise ValueError(
                f"{path} is no rollout of format {FORMAT}: write it with Rollout.save."
            )
        names = cast("list[str]", list(file.keys()))
        tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in names}
    request: Request = _read(facts.pop("request"))
    steps, writes = Steps(**_under("steps.", tensors)), Writes(**_under("writes.", tensors))
    return RolloutFile(
        {k: v for k, v in tensors.items() if "." not in k}, steps, writes, request, facts
    )


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of one table by the names of its columns."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _written(value: Any, where: str) -> Any:
    """Return a value for JSON; a dataclass is a table with its class and its fields."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple):
        return [_written(part, where) for part in cast("tuple[Any, ...]", value)]
    if is_dataclass(value) and not isinstance(value, type):
        kind = type(value)
        if not kind.__module__.startswith(OWN):
            raise TypeError(
                f"{where} is {named(value)} of {kind.__module__}: only samplers and settings of "
                "this library can be saved. Keep the rollout in memory."
            )
        own = {
            field.name: _written(vars(value)[field.name], f"{where}.{field.name}")
            for field in fields(value)
            if field.init
        }
        return {"class": f"{kind.__module__}:{kind.__qualname__}", "fields": own}
    raise TypeError(
        f"{where} is {named(value)}, which has no form as a file: keep the rollout in "
        "memory, or sample without it."
    )


def _read(value: Any) -> Any:
    """Return what `_written` wrote; a list becomes a tuple."""
    if isinstance(value, list):
        return tuple(_read(part) for part in cast("list[Any]", value))
    if not isinstance(value, dict):
        return value
    table = cast("dict[str, Any]", value)
    module, _, name = str(table["class"]).partition(":")
    if not module.startswith(OWN):
        raise ValueError(f"the file names {table['class']}, which is no class of this library.")
    found: Any = vars(importlib.import_module(module)).get(name)
    if not (isinstance(found, type) and is_dataclass(found)):
        raise ValueError(f"the file names {table['class']}, which this version does not have.")
    given = cast("dict[str, Any]", table["fields"])
    known = {field.name for field in fields(found) if field.init}
    needed = {
        f.name
        for f in fields(found)
        if f.init and f.default is MISSING and f.default_factory is MISSING
    }
    if not needed <= set(given) <= known:
        raise ValueError(f"the file has other fields of {name} than this version: {sorted(given)}.")
    return found(**{key: _read(part) for key, part in given.items()})

"""Read and write learned samplers as JSON: `dlm-sampling learn`, `generate(sampler="x.json")`.

    {"format": "lsd.v1", "process": "absorbing", "base": "euler", "options": {...},
     "schedule": {"name": "LogLinear", "eps": 0.001}, "pred_kind": "posterior", "steps": 16,
     "t_grid": [1.0, ..., 1e-05], "phi": [...], "apply": "rate", "final": true,
     "model": {...}, "learning": {...}}

steps counts forward passes of a block without the noise removal; t_grid has one time more than phi,
and phi one number per interval.  `model` and `learning` say where the numbers come from.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, cast

from dlm_sampling import schedules
from dlm_sampling.errors import check_arguments, check_fields, unknown_choice
from dlm_sampling.processes.coefficients import Apply
from dlm_sampling.samplers.lsd.learned_steps import LearnedSteps
from dlm_sampling.samplers.lsd.solvers import LEARNED, BaseName, Learned
from dlm_sampling.schedules import Schedule
from dlm_sampling.types import NoiseKind, PredictionKind

FORMAT = "lsd.v1"
SCHEDULES: Mapping[str, type[Schedule]] = {
    kind.__name__: kind
    for kind in (
        schedules.LogLinear,
        schedules.Cosine,
        schedules.HalfCosine,
        schedules.Geometric,
        schedules.Polynomial,
        schedules.Exponential,
    )
}
_APART = ("schedule", "t_end", "learned")  # fields that the file holds under other names


@dataclass(frozen=True)
class LearnedFile:
    """Hold a learned sampler with its provenance.

    Fields:
        process: the noise that it was learnt for.
        base: public name of the solver.
        schedule: alpha(t) of the solver's times, as `schedule_record` writes it.
        steps: planned steps of a block.
        t_grid: times of the grid's points.
        phi: one coefficient per interval.
        options: further fields of the solver.
        apply: "rate" or "log_score".
        pred_kind: the kind of prediction that the model makes.
        final: whether a last step writes the noise left at the end of the grid; always here.
        model: name and fingerprint of the model.
        learning: settings of the fit that gave the numbers.
    """

    process: NoiseKind
    base: BaseName
    schedule: Mapping[str, Any]
    steps: int
    t_grid: tuple[float, ...]
    phi: tuple[float, ...]
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    apply: Apply = "rate"
    pred_kind: PredictionKind = "posterior"
    final: bool = True
    model: Mapping[str, Any] = field(default_factory=dict[str, Any])
    learning: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        check_fields(self)
        if self.base not in LEARNED:
            raise unknown_choice("base", self.base, tuple(LEARNED))
        if not self.final:
            raise ValueError(
                "final=False: every sampler here writes what is left at the end of its grid; "
                "must be true."
            )
        if self.build().own_steps != self.steps:
            raise ValueError(
                f"steps={self.steps}: {len(self.phi)} coefficients of base {self.base!r} are "
                f"{self.build().own_steps} steps."
            )

    def build(self) -> Learned:
        """Build the sampler."""
        kind = LEARNED[self.base]
        allowed = [item.name for item in fields(kind) if item.name not in _APART]
        check_arguments(self.options, allowed)
        learned = LearnedSteps(tuple(self.phi), tuple(self.t_grid), self.apply, self.process)
        return kind(
            schedule=read_schedule(self.schedule),
            t_end=self.t_grid[-1],
            learned=learned,
            **self.options,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"format": FORMAT, **asdict(self)}


def options_of(sampler: Learned) -> dict[str, Any]:
    """Return the fields of a solver that the file holds under "options"."""
    values = {item.name: getattr(sampler, item.name) for item in fields(sampler)}
    return {name: value for name, value in values.items() if name not in _APART}


def schedule_record(schedule: Schedule) -> dict[str, Any]:
    """Return a schedule as JSON.

    Raises:
        ValueError: it is not one of the library's.
    """
    name = type(schedule).__name__
    if SCHEDULES.get(name) is not type(schedule):
        raise unknown_choice("schedule", name, SCHEDULES)
    return {"name": name, **asdict(cast(Any, schedule))}


def read_schedule(record: Mapping[str, Any]) -> Schedule:
    """Return the schedule that `schedule_record` wrote.

    Raises:
        ValueError: an unknown name, or a parameter out of range.
        TypeError: an unknown parameter.
    """
    parameters = dict(record)
    name = parameters.pop("name", None)
    if name not in SCHEDULES:
        raise unknown_choice("schedule", name, SCHEDULES)
    kind: Any = SCHEDULES[name]
    check_arguments(parameters, [item.name for item in fields(kind)])
    return kind(**parameters)


def save_learned(learned: LearnedFile, path: str | Path) -> Path:
    """Write the file, in one piece, and return its path."""
    path = Path(path)
    draft = path.with_name(f".{path.name}.{os.getpid()}.partial")
    draft.write_text(json.dumps(learned.to_dict(), indent=1) + "\n", encoding="utf-8")
    draft.replace(path)
    return path


def load_learned(path: str | Path) -> LearnedFile:
    """Read a learned sampler from the file that `save_learned` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not JSON, another format, or values that do not belong together.
        TypeError: an unknown field.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no learned sampler there. Write one with `dlm-sampling learn`."
        )
    remedy = "Write one with `dlm-sampling learn`."
    try:
        record: Any = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}). {remedy}") from None
    values = cast("dict[str, Any]", record) if isinstance(record, dict) else {}
    if values.pop("format", None) != FORMAT:
        raise ValueError(f"{path} is no learned sampler of the format {FORMAT!r}. {remedy}")
    names = [item.name for item in fields(LearnedFile)]
    check_arguments(values, names)
    missing = [name for name in names[:6] if name not in values]
    if missing:
        raise ValueError(f"{path} has no {', '.join(missing)}. {remedy}")
    for name in ("t_grid", "phi"):
        values[name] = tuple(float(value) for value in values[name])
    return LearnedFile(**values)

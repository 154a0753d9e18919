"""What `compare_samplers` measures: every sampler under its laws, at every budget."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from dlm_sampling import samplers
from dlm_sampling.types import TokenLaw

LAWS = {
    "plain": TokenLaw(),
    "greedy": TokenLaw(temperature=0.0),
    "nucleus": TokenLaw(top_p=0.9, crossing="exclude"),
}
"""Laws by name; a sampler whose own law is none of these has the law "own"."""

BASELINES = {
    "plain": ("ancestral", "llada"),
    "greedy": ("llada",),
    "nucleus": ("ancestral",),
    "own": ("ancestral",),
}
"""What a sampler is compared with, by its law; "own" is compared with the plain law."""


@dataclass(frozen=True)
class Sweep:
    """The budget of a sampler that sets its own pace is an option, not the planned steps.

    Fields:
        option: name of the sampler's parameter.
        values: what it is set to, by world.
        steps: planned steps of all runs, for samplers that also read them.
    """

    option: str
    values: dict[str, tuple[float, ...]]
    steps: int | None = None


_THRESHOLDS = {"text": (0.9, 0.5, 0.3, 0.15, 0.05), "sudoku": (0.9, 0.7, 0.5, 0.3)}
SWEEPS = {
    "eb-sampler": Sweep(
        "gamma", {"text": (0.1, 3.0, 10.0, 30.0, 60.0), "sudoku": (0.1, 0.5, 1.0, 2.0)}
    ),
    "fast-dllm": Sweep("threshold", _THRESHOLDS),
    "fast-dllm-factor": Sweep(
        "factor", {"text": (1.0, 2.0, 4.0, 8.0, 16.0), "sudoku": (0.5, 1.0, 2.0, 4.0)}
    ),
    "fast-dllm-dream": Sweep("threshold", _THRESHOLDS, steps=4),
    "dinfer-threshold": Sweep("threshold", _THRESHOLDS),
    "dinfer-hierarchy": Sweep(
        "low_threshold", {"text": (0.6, 0.3, 0.1, 0.03, 0.0), "sudoku": (0.6, 0.3, 0.1, 0.0)}
    ),
    "dinfer-credit": Sweep("threshold", _THRESHOLDS),
    "gillespie": Sweep("events_per_step", {"text": (1, 2, 4, 8, 16), "sudoku": (1, 2, 4)}),
    # Nothing sets its pace: events come as the process has them.
    "uniformization": Sweep("t_end", {"text": (1e-5,), "sudoku": (1e-5,)}),
    "bd3lm": Sweep("tokens_per_step", {"text": (1, 2, 4, 8, 16), "sudoku": (1, 2, 4)}),
}


@dataclass(frozen=True)
class Cell:
    """One measurement.

    Fields:
        task: what is filled by which model, such as "model, 5 clues".
        sampler: its public name.
        law: a key of `LAWS`, or "own".
        steps: planned steps, or None where the sampler does not read them.
        option: name and value of the swept parameter, or None.
    """

    task: str
    sampler: str
    law: str
    steps: int | None
    option: tuple[str, float] | None = None

    @property
    def options(self) -> dict[str, Any]:
        """Parameters for `samplers.create`."""
        return {} if self.option is None else {self.option[0]: self.option[1]}

    @property
    def rule(self) -> str:
        """The sampler with all its parameters; two records of a cell must agree on it."""
        return repr(samplers.create(self.sampler, **self.options))

    def token_law(self) -> TokenLaw:
        """How tokens are drawn."""
        return LAWS.get(self.law) or samplers.create(self.sampler).law


def own_law(name: str) -> str:
    """Name of the law that a sampler has by default."""
    law = samplers.create(name).law
    return next((key for key, value in LAWS.items() if value == law), "own")


def laws_of(name: str) -> tuple[str, ...]:
    """The plain law, which makes rows comparable, the sampler's own, and what a baseline needs."""
    needed = [law for law, names in BASELINES.items() if name in names and law in LAWS]
    return tuple(dict.fromkeys(["plain", own_law(name), *needed]))


def is_experimental(name: str) -> bool:
    """Whether the library marks the sampler so."""
    entry = samplers.available()[name]
    return "experimental" in f"{entry.summary} {entry.paper}".lower()


@dataclass(frozen=True)
class Budgets:
    """Planned steps.

    Fields:
        all: of every sampler.
        revising: more than one step per token, which only samplers that revise tokens gain from;
            measured under their own law alone.
        ancestral: finer grids of ancestral sampling: steps of its grid that reveal nothing cost
            nothing, so that it needs many steps to spend one NFE per token.
    """

    all: tuple[int, ...]
    revising: tuple[int, ...] = ()
    ancestral: tuple[int, ...] = ()

    def of(self, name: str, law: str) -> tuple[int, ...]:
        """Planned steps of one sampler under one law."""
        if name == "ancestral":
            return (*self.all, *self.ancestral)
        revises = samplers.create(name).revises and law == own_law(name)
        return (*self.all, *(self.revising if revises else ()))


def cells_of(name: str, law: str, task: str, world: str, budgets: Budgets) -> Iterator[Cell]:
    """The budgets of one sampler under one law."""
    sweep = SWEEPS.get(name)
    if sweep is not None:
        for value in sweep.values[world]:
            yield Cell(task, name, law, sweep.steps, (sweep.option, value))
        return
    for steps in budgets.of(name, law):
        yield Cell(task, name, law, steps)

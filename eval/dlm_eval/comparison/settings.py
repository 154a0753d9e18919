"""List the settings of a comparison: samplers at every budget and under every law.

A sampler with planned steps takes the budgets as its steps.  A sampler that sets its own pace is
swept by its own parameter, with the values of `sweeps.SWEEPS` or those of the caller.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from dlm_eval.comparison.sweeps import SWEEPS, Sweep
from dlm_eval.report.results import Json
from dlm_sampling import samplers
from dlm_sampling.errors import UsageError, unknown_choice
from dlm_sampling.types import Crossing, Sampler


@dataclass(frozen=True)
class Law:
    """Hold how tokens are drawn, as far as it is not the sampler's own law.

    Fields:
        temperature: None is the sampler's own.
        top_p: likewise.
        crossing: whether the token that crosses top_p is kept; likewise.
    """

    temperature: float | None = None
    top_p: float | None = None
    crossing: Crossing | None = None

    @property
    def words(self) -> list[str]:
        """Return the words that it adds to the name of a setting."""
        found = [] if self.temperature is None else [f"T {self.temperature:g}"]
        return found if self.top_p is None else [*found, f"top-p {self.top_p:g}"]

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `generate`."""
        return asdict(self)


@dataclass(frozen=True)
class Setting:
    """Hold a sampler with its budget and its law.

    Fields:
        sampler: public name, or what tables call `instance`.
        law: of the tokens.
        steps: planned steps; None where the sampler sets its own pace.
        option: name and value of the swept parameter, or None.
        instance: the sampler, where its name does not say it all.
    """

    sampler: str
    law: Law
    steps: int | None
    option: tuple[str, float] | None = None
    instance: Sampler[Any] | None = None

    @property
    def label(self) -> str:
        """Return the name of the setting in tables."""
        words = [self.sampler]
        if self.option is not None:
            words.append(f"{self.option[0]} {self.option[1]:g}")
        if self.steps is not None:
            words.append(f"{self.steps} steps")
        return ", ".join(words + self.law.words)

    @property
    def series(self) -> str:
        """Return the name that the setting shares with the other budgets of its sampler."""
        return ", ".join([self.sampler, *self.law.words])

    @property
    def options(self) -> dict[str, Any]:
        """Return the parameters of the sampler that are not its defaults."""
        return {} if self.option is None else {self.option[0]: self.option[1]}

    def build(self) -> Sampler[Any]:
        """Return the sampler."""
        return self.instance or samplers.create(self.sampler, **self.options)

    def facts(self) -> dict[str, Json]:
        """Return the setting with all fields of the sampler, for results."""
        return {
            "sampler": repr(self.build()),
            **self.law.arguments(),
            "steps": self.steps,
        }


def settings_of(
    names: Sequence[str],
    budgets: Sequence[int],
    laws: Sequence[Law],
    sweeps: Mapping[str, Sweep],
    world: str,
) -> list[Setting]:
    """Return every sampler at every budget and under every law.

    Args:
        names: samplers.
        budgets: forward passes per row, for samplers with planned steps.
        laws: how tokens are drawn.
        sweeps: parameters that replace the budgets, by sampler; see `sweeps_of`.
        world: key of the sweeps' values.

    Raises:
        UsageError: two settings have one name.
    """
    found = [
        setting
        for name in names
        for law in laws
        for setting in _budgets(name, law, budgets, sweeps.get(name), world)
    ]
    for label, count in Counter(setting.label for setting in found).items():
        if count > 1:
            raise UsageError(
                f"{label!r} is asked for {count} times; name every number of --nfe, --temperature "
                "and --sweep once."
            )
    return found


def sweeps_of(given: Sequence[str], world: str, names: Sequence[str]) -> dict[str, Sweep]:
    """Return the known sweeps, with those of the caller in front.

    Args:
        given: of the form "klass.conf_threshold=0.9,0.7"; values of one parameter add up.
        world: key of the sweeps' values.
        names: samplers that are compared.

    Raises:
        UsageError: no such form, sampler or parameter, a sampler that is not compared, a value
            that is no number or out of its range, or two parameters of one sampler.
    """
    found: dict[str, Sweep] = {}
    for text in given:
        name, dot, rest = text.strip().partition(".")
        option, equal, numbers = rest.partition("=")
        if not (dot and equal and numbers):
            raise UsageError(f"--sweep {text}: must be like fast-dllm.threshold=0.9,0.5.")
        try:
            entry = samplers.find(name)
            if option not in entry.parameters:
                raise unknown_choice("parameter", option, entry.parameters)
            values = tuple(
                _number(word.strip(), entry.parameters[option]) for word in numbers.split(",")
            )
            for value in values:
                samplers.create(name, **{option: value})
        except (ValueError, TypeError) as error:
            raise UsageError(f"--sweep {text}: {error}") from error
        if name not in names:
            raise UsageError(f"--sweep {text}: --samplers does not name {name}.")
        before = found.get(name)
        if before is not None and before.option != option:
            raise UsageError(
                f"--sweep {text}: {name} is swept by {before.option} already; sweep one parameter "
                "of a sampler, and the other with another --out."
            )
        known = before or replace(SWEEPS.get(name, Sweep(option, {})), option=option, values={})
        found[name] = replace(known, values={world: (*known.values.get(world, ()), *values)})
    return {**SWEEPS, **found}


def check_names(names: Sequence[str], noise: str) -> None:
    """Refuse samplers that are unknown, named twice, or made for other noise.

    Raises:
        UsageError: names the sampler, and those that run on the noise.
    """
    if not names:
        raise UsageError("--samplers: name at least one, such as ancestral,llada,klass.")
    for i, name in enumerate(names):
        try:
            entry = samplers.find(name)
        except (ValueError, OSError) as error:
            raise UsageError(f"--samplers {name}: {error}") from error
        if name in names[:i]:
            raise UsageError(f"--samplers: {name} is named twice.")
        if noise not in entry.runs_on:
            fitting = [n for n, e in samplers.available().items() if noise in e.runs_on]
            raise UsageError(
                f"--samplers {name}: is for {' and '.join(entry.runs_on)} noise, and the model has "
                f"{noise} noise; {', '.join(fitting)} run on it."
            )


def has_nucleus(names: Sequence[str]) -> bool:
    """Return whether a sampler has a top-p of its own."""
    return any(samplers.create(name).law.top_p is not None for name in names)


def read_crossing(word: str | None) -> Crossing | None:
    """Return the rule of this name for the token that crosses top_p.

    Raises:
        UsageError: there is none.
    """
    if word is None or word == "include" or word == "exclude":
        return word
    raise UsageError(str(unknown_choice("--crossing", word, ("include", "exclude"))))


def _budgets(
    name: str,
    law: Law,
    budgets: Sequence[int],
    sweep: Sweep | None,
    world: str,
) -> Iterator[Setting]:
    if sweep is None:
        for steps in budgets:
            yield Setting(name, law, steps)
        return
    for value in sweep.values[world]:
        yield Setting(name, law, sweep.steps, (sweep.option, value))


def _number(word: str, default: Any) -> float:
    """Read a whole number for a parameter that is one, else any number."""
    whole = isinstance(default, int) and not isinstance(default, bool)
    return int(word) if whole else float(word)

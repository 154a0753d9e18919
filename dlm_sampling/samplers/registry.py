"""Hold the samplers by name, for `generate(sampler="name")` and the command.

Every file of an algorithm ends with the names under which its samplers are registered; the package
imports each file on one line, and the order of these lines is the order of the documentation.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, is_dataclass, replace
from functools import partial
from types import FunctionType
from typing import Any

from dlm_sampling.samplers.base import SamplerBase
from dlm_sampling.samplers.contract import check_described
from dlm_sampling.types import NoiseKind

LEARNED_SUFFIX = ".json"
"""The end of a name that is the path of a learned sampler's file."""

NOISE_WORDS: Mapping[NoiseKind, str] = {
    "absorbing": "masks",
    "uniform": "uniform",
    "matrix": "any matrix",
}
"""The words for kinds of noise in tables and in the command."""


@dataclass(frozen=True)
class Entry:
    """Describe a sampler under its public name.

    Fields:
        name: its name in `generate(sampler=name)` and `--sampler name`.
        build: class or function whose keyword arguments are the sampler's parameters.
        built_in: whether it comes with this library.
    """

    name: str
    build: Callable[..., SamplerBase[Any]]
    built_in: bool = False

    @property
    def summary(self) -> str:
        """Return the first paragraph of the docstring, on one line; "" without one."""
        build = called(self.build)
        text = inspect.cleandoc(build.__doc__ or "")
        generated = isinstance(build, type) and text.startswith(f"{build.__name__}(")
        if generated and is_dataclass(build):
            return ""  # a dataclass without a docstring gets its signature for one
        return text.split("\n\n")[0].replace("\n", " ")

    @property
    def parameters(self) -> dict[str, Any]:
        """Return parameter names and defaults."""
        return {name: p.default for name, p in inspect.signature(self.build).parameters.items()}

    @property
    def paper(self) -> str:
        """Return the paper that the rule comes from."""
        return self.build().paper

    @property
    def runs_on(self) -> tuple[NoiseKind, ...]:
        """Return the kinds of noise whose models it samples from."""
        return self.build().runs_on

    @property
    def noise(self) -> tuple[str, ...]:
        """Return these kinds of noise in words, for tables and the command."""
        return tuple(NOISE_WORDS.get(kind, kind) for kind in self.runs_on)

    @property
    def recorded_on(self) -> tuple[NoiseKind, ...]:
        """Return the kinds of noise on which `generate(..., cuda_graph=True)` takes it."""
        built = self.build()
        return tuple(kind for kind in built.recorded_on if kind in built.runs_on)

    @property
    def nfe(self) -> str:
        """Return the number of forward passes, in words."""
        return self.build().nfe


def called(build: Callable[..., Any]) -> Callable[..., Any]:
    """Return the class or function behind a functools.partial, which has the docstring."""
    return called(build.func) if isinstance(build, partial) else build


def _shown(build: object) -> str:
    """Return the name of a class or function as it is written in the code; else its repr."""
    return build.__qualname__ if isinstance(build, type | FunctionType) else repr(build)


_ENTRIES: dict[str, Entry] = {}
_BUILT_IN: set[str] = set()


def register(name: str, build: Callable[..., SamplerBase[Any]]) -> None:
    """Make a sampler available by name in `generate`, `create` and `available`.

    A name of one's own may be registered again, as a notebook does when a cell runs twice.

    Args:
        name: the public name.
        build: class or function that returns the sampler; its keyword arguments are the parameters,
            and each has a default.

    Raises:
        ValueError: the name is that of a sampler of this library, is empty, or ends in ".json".
        TypeError: `name` is no string, `build` needs arguments, or what it returns is no sampler.
    """
    if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"name={name!r}: must be a string, such as 'mine'.")
    if not name.strip() or name.endswith(LEARNED_SUFFIX):
        raise ValueError(
            f"name={name!r}: must not be empty nor end in {LEARNED_SUFFIX}, which stands for the "
            "file of a learned sampler."
        )
    if name in _BUILT_IN:
        taken = _ENTRIES[name].build
        raise ValueError(
            f"name={name!r}: is taken by {taken.__name__} of {taken.__module__}; choose another."
        )
    try:
        sampler = build()
    except TypeError as error:
        raise TypeError(
            f"build={_shown(build)}: must be a class or function whose parameters all have "
            f"defaults ({error})."
        ) from error
    check_described(sampler)
    for parameter in inspect.signature(build).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise TypeError(
                f"build={_shown(build)}: takes {parameter}, so that its parameters are not known; "
                "name each one, with a default."
            )
    _ENTRIES[name] = Entry(name, build)


def close_built_in() -> None:
    """Keep the names registered so far for the samplers of this library."""
    _BUILT_IN.update(_ENTRIES)
    _ENTRIES.update({name: replace(entry, built_in=True) for name, entry in _ENTRIES.items()})


def available() -> dict[str, Entry]:
    """Return all registered samplers by name, in the order of the documentation."""
    return dict(_ENTRIES)

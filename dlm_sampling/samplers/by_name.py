"""Find and build a sampler by its public name, or from the file of a learned one."""

from __future__ import annotations

from typing import Any

from dlm_sampling.errors import check_arguments, unknown_sampler
from dlm_sampling.samplers.base import SamplerBase
from dlm_sampling.samplers.lsd.saved import load_learned
from dlm_sampling.samplers.registry import LEARNED_SUFFIX, Entry, available


def find(name: str) -> Entry:
    """Return the entry of a registered sampler, or of a file that `dlm-sampling learn` wrote.

    Raises:
        TypeError: the name is no string.
        ValueError: unknown name (the closest one is suggested), or the file is none of `learn`.
        FileNotFoundError: there is no such file.
    """
    if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"name={name!r}: must be the name of a sampler, such as 'llada'.")
    if name.endswith(LEARNED_SUFFIX):
        return Entry(name, load_learned(name).build)
    entries = available()
    if name not in entries:
        raise unknown_sampler(name, entries)
    return entries[name]


def create(name: str, **parameters: Any) -> SamplerBase[Any]:
    """Build a sampler by its public name, or from a file that `dlm-sampling learn` wrote.

    Args:
        name: one of `available()`, or the path of a file that ends in ".json".
        parameters: of a sampler given by name; a file has its own.

    Raises:
        ValueError: unknown name (the closest one is suggested), or a parameter out of its range.
        TypeError: unknown parameter (the closest one is suggested), or a value of another type.
        FileNotFoundError: there is no such file.
    """
    if parameters and name.endswith(LEARNED_SUFFIX):
        raise ValueError(
            f"sampler_options: {name} has its own parameters; they go with a sampler given by name."
        )
    entry = find(name)
    check_arguments(parameters, entry.parameters)
    return entry.build(**parameters)

"""The interfaces of noise and of random numbers: the library's own classes have every member."""

from __future__ import annotations

import inspect
from typing import get_args

import pytest

from dlm_sampling import ops, processes
from dlm_sampling.types import NoiseKind, PredictionKind, Process, RandomSource

IMPLEMENTATIONS = (
    (processes.Absorbing, Process),
    (processes.Uniform, Process),
    (processes.RateMatrix, Process),
    (ops.Rng, RandomSource),
)


def members(interface: type) -> dict[str, object]:
    own = {name: value for name, value in vars(interface).items() if not name.startswith("_")}
    return own | dict.fromkeys(inspect.get_annotations(interface))


@pytest.mark.parametrize(("made", "interface"), IMPLEMENTATIONS)
def test_every_member_is_there_with_its_arguments(made: type, interface: type) -> None:
    """A type checker compares the types; this compares names and number at run time."""
    fields = inspect.get_annotations(made)
    for name, wanted in members(interface).items():
        assert hasattr(made, name) or name in fields, f"{made.__name__} has no {name}"
        if inspect.isfunction(wanted):
            given = len(inspect.signature(wanted).parameters)
            own = inspect.signature(getattr(made, name)).parameters.values()
            needed = [p for p in own if p.default is p.empty]
            assert len(needed) <= given <= len(own), f"{made.__name__}.{name}"


def test_kinds_of_noise_and_of_predictions_are_those_of_the_classes() -> None:
    made = [one for one, interface in IMPLEMENTATIONS if interface is Process]
    assert {one.name for one in made} == set(get_args(NoiseKind))  # pyright: ignore
    read = {one.reads for one in made} | {one.rates_read for one in made}  # pyright: ignore
    assert read <= set(get_args(PredictionKind))

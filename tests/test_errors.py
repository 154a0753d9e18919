"""The types of fields and arguments are checked before their ranges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pytest
import torch

from dlm_sampling.errors import check_fields, check_flag, check_real, check_whole, named
from dlm_sampling.schedules import LINEAR, Cosine
from dlm_sampling.types import Schedule


@dataclass(frozen=True)
class Settings:
    """One field of every kind."""

    count: int = 3
    most: int | None = None
    share: float = 0.5
    flag: bool = False
    mode: Literal["fast", "slow"] = "fast"
    schedule: Schedule = LINEAR
    ids: tuple[int, ...] = ()
    sizes: Sequence[float] | None = None
    anything: Any = None

    def __post_init__(self) -> None:
        check_fields(self)


GOOD: dict[str, list[object]] = {
    "count": [0, -2, np.int64(4), torch.tensor(4)],
    "most": [None, 7],
    "share": [1, 0.25, np.float32(0.5), float("inf")],
    "flag": [True],
    "mode": ["slow"],
    "schedule": [Cosine()],
    "ids": [(1, 2), [3]],
    "sizes": [None, (0.5, 1)],
    "anything": [None, "x", 3],
}
BAD: dict[str, list[object]] = {
    "count": [2.0, float("nan"), "3", None, True, [3], torch.tensor(2.5), 2**70],
    "most": [2.5, "7"],
    "share": ["x", None, False, [0.5], torch.tensor([1.0, 2.0]), 1j, 10**400],
    "flag": [1, 0.0, None, "yes"],
    "mode": ["fats", None, 3, ["fast"]],
    "schedule": [2, None, "cosine"],
    "ids": ["12", 3, (1, 2.5), (1, None)],
    "sizes": ["x", 0.5, [0.5, "x"]],
}


@pytest.mark.parametrize(("name", "value"), [(k, v) for k, values in GOOD.items() for v in values])
def test_a_value_of_the_annotated_type_is_taken(name: str, value: Any) -> None:
    assert getattr(Settings(**{name: value}), name) is value


@pytest.mark.parametrize(("name", "value"), [(k, v) for k, values in BAD.items() for v in values])
def test_any_other_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=rf"^{name}\b"):
        Settings(**{name: value})


def test_what_to_pass_instead_is_said() -> None:
    for field, value, text in (
        ("count", 2.5, "count=2.5: must be a whole number, such as 4."),
        ("share", "x", "share='x': must be a number, such as 1.0."),
        ("flag", 1, "flag=1: must be True or False."),
        ("mode", "fats", "mode='fats': must be one of fast, slow. Did you mean 'fast'?"),
        ("schedule", 2, "schedule=2: must be a Schedule, such as LogLinear(eps=0.0)."),
        ("sizes", 0.5, "sizes=0.5: must be a Sequence or None."),
    ):
        with pytest.raises((TypeError, ValueError)) as error:
            Settings(**{field: value})  # type: ignore[arg-type]
        assert str(error.value) == text


def test_arguments_of_functions_are_checked_alike() -> None:
    check_whole("n", None, optional=True)
    check_real("x", None, optional=True)
    for value in (True, torch.tensor(1.5), None):
        with pytest.raises(TypeError, match="n="):
            check_whole("n", value)
    for value in (True, torch.ones(2), None, "1"):
        with pytest.raises(TypeError, match="x="):
            check_real("x", value)


def test_flags_are_true_or_false() -> None:
    check_flag("cuda_graph", True)
    check_flag("progress", None, optional=True)
    for wrong in (1, "yes", None):
        with pytest.raises(TypeError, match=f"cuda_graph={wrong!r}: must be True or False."):
            check_flag("cuda_graph", wrong)


def test_a_class_is_named_with_its_article() -> None:
    assert (named(3), named("x"), named(LINEAR)) == ("an int", "a str", "a LogLinear")

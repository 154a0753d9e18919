"""The ranges of parameters: their ends are in or out, and messages name the field."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from dlm_sampling.samplers.parts import checks

NAN, INF, UP = math.nan, math.inf, 1e6


def least_0(value: float) -> None:
    checks.at_least("x", value, 0.0, "try it")


def count(value: float) -> None:
    checks.at_least("x", value, 2, "try it")


def above(value: float) -> None:
    checks.above_zero("x", value, "try it")


def threshold(value: float) -> None:
    checks.probability_threshold("x", value, "try it")


def unit(value: float) -> None:
    checks.unit_interval("x", value, "try it")


RANGES: list[tuple[Callable[[float], None], list[float], list[float]]] = [
    (least_0, [0.0, 0.5, UP], [-1e-9, NAN, INF, 1e6 + 1]),
    (count, [2, 3, 10**6], [1, -2, NAN, INF, 10**6 + 1]),
    (above, [1e-9, 1.0, UP], [0.0, -1.0, NAN, INF, 1e6 + 1]),
    (threshold, [0.0, 1.0, 1.5], [-1e-9, 1.5001, NAN, INF]),
    (unit, [0.0, 0.3, 1.0], [-1e-9, 1.0 + 1e-9, NAN, INF]),
    (checks.check_t_end, [0.0, 0.5, 1.0 - 1e-9], [-1e-9, 1.0, NAN]),
]


@pytest.mark.parametrize(("check", "inside", "outside"), RANGES)
def test_ends_are_in_or_out(
    check: Callable[[float], None], inside: list[float], outside: list[float]
) -> None:
    name = "t_end" if check is checks.check_t_end else "x"
    for value in inside:
        check(value)
    for value in outside:
        with pytest.raises(ValueError, match=f"{name}="):
            check(value)


def test_messages_say_what_is_allowed() -> None:
    for check, value, message in (
        (count, 1, r"x=1: must be at least 2; try it\."),
        (least_0, -1.0, r"x=-1\.0: must be finite and >= 0; try it\."),
        (least_0, 2e6, r"x=2000000\.0: must be at most 1000000; try it\."),
    ):
        with pytest.raises(ValueError, match=message):
            check(value)


def test_the_logarithm_of_a_threshold() -> None:
    assert checks.log_threshold(0.0) == -INF
    assert checks.log_threshold(0.5) == math.log(0.5)
    assert checks.log_threshold(1.0) == 0.0

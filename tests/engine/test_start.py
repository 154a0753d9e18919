"""The start of a run: levels and time grids that make sense, and the others by name."""

from __future__ import annotations

from typing import Any

import pytest

from dlm_sampling.engine.start import Start, check_times, taken_as_it_is


def test_a_draft_is_noised_to_a_level_or_taken_as_it_is() -> None:
    assert Start(0.3).noises == 0.3
    assert Start(0.3, renoise=False).noises is None
    assert Start().noises is None
    assert taken_as_it_is(Start(0.3)) == Start(0.3, renoise=False)
    assert taken_as_it_is(None) is None


@pytest.mark.parametrize("t", [0.0, 1.0, -0.5, float("nan"), "late", True])
def test_levels_that_are_none_are_named(t: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="t_start="):
        Start(t)


def test_grids_fall_from_the_start_in_the_planned_steps() -> None:
    check_times(None, 3, 1.0)
    check_times((1.0, 0.4, 0.0), None, 1.0)
    check_times((0.5, 0.1), 1, 0.5)
    for times, planned, begin in (
        *(((1.0, 1.0), None, 1.0), ((1.0, -0.1), None, 1.0), ((0.5, 0.0), None, 1.0)),
        *(((1.0, 0.0), 2, 1.0), ((0.9, 0.0), None, 0.5), ((), None, 1.0)),
    ):
        with pytest.raises(ValueError, match=r"times|steps=2"):
            check_times(times, planned, begin)
    with pytest.raises(TypeError, match=r"times\[1\]='x'"):
        check_times((1.0, "x"), None, 1.0)  # pyright: ignore[reportArgumentType]

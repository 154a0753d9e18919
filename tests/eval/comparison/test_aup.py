"""AUP by hand."""

import math

import pytest
from dlm_eval.comparison.aup import aup, kept


def test_one_point_is_a_rectangle() -> None:
    assert aup([(2.0, 80.0)]) == 160.0


def test_slower_accuracy_weighs_more() -> None:
    """Two trapezoids; the weight of an accuracy is exp(-3 (1 - y / y_max)), at most 1."""
    w = math.exp(-3 * (1 - 76 / 80))
    wanted = 1 * 80 + (2 - 1) * (76 * w + 80) / 2 + (4 - 2) * (80 + 76 * w) / 2
    assert aup([(4.0, 80.0), (1.0, 80.0), (2.0, 76.0)]) == pytest.approx(wanted)
    less = math.exp(-3 * (1 - 80 / 100))
    assert aup([(1.0, 80.0), (3.0, 80.0)], best=100.0) == pytest.approx(80 + 2 * 80 * less)


def test_a_point_that_loses_more_than_five_percent_is_left_out() -> None:
    assert aup([(1.0, 80.0), (8.0, 74.9)]) == 80.0
    assert aup([(1.0, 80.0), (8.0, 75.0)]) > 500
    assert kept([(8.0, 74.9), (4.0, 75.0), (1.0, 80.0)]) == [(1.0, 80.0), (4.0, 75.0)]


def test_no_accuracy_at_all_is_zero() -> None:
    assert aup([(1.0, 0.0), (2.0, 0.0)]) == 0.0


@pytest.mark.parametrize("points", [[], [(0.0, 50.0)], [(1.0, 101.0)], [(math.nan, 5.0)]])
def test_what_is_no_point_is_refused(points: list[tuple[float, float]]) -> None:
    with pytest.raises(ValueError, match="points"):
        aup(points)
    with pytest.raises(ValueError, match="best=70"):
        aup([(1.0, 80.0)], best=70.0)

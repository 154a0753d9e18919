"""Wilson's interval against the test that it inverts, and its value at the ends."""

from __future__ import annotations

import math

import pytest
from dlm_eval.report.intervals import NORMAL, wilson, wilson_note


@pytest.mark.parametrize(("right", "n"), [(0, 20), (7, 20), (20, 20), (130, 512)])
def test_the_bounds_are_where_the_score_test_rejects(right: int, n: int) -> None:
    for bound in wilson(right, n):
        if 0.0 < bound < 1.0:
            score = (right / n - bound) / math.sqrt(bound * (1 - bound) / n)
            assert abs(score) == pytest.approx(NORMAL)
    low, high = wilson(right, n)
    assert low <= right / n <= high and high > 0.0 and low < 1.0


def test_words_and_wrong_counts() -> None:
    assert wilson_note(0, 20) == "95 % interval 0.0 to 16.1 %"
    with pytest.raises(ValueError, match="right=3"):
        wilson(3, 2)

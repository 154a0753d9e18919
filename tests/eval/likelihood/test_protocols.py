"""Mask counts of the LLaDA protocol: the release's rounding is not uniform, ours is."""

from __future__ import annotations

import pytest
from dlm_eval.likelihood.protocols import PROTOCOLS

from tests.likelihood.test_elbo import test_stratified_sizes_are_exactly_uniform as uniform


def released(total: int, batch: int) -> list[int]:
    """How often each l in 1..C occurs over all starts k: l = round(k + j C / b), half to even."""
    counts = [0] * total
    for k in range(1, total + 1):
        for j in range(batch):
            counts[(round(k + j * total / batch) - 1) % total] += 1
    return counts


@pytest.mark.parametrize(
    ("total", "batch", "seen"),
    [(20, 8, {4, 12}), (100, 8, {4, 12}), (64, 16, {16}), (256, 32, {32})],
)
def test_rounding_half_to_even_favours_even_counts(total: int, batch: int, seen: set[int]) -> None:
    counts = released(total, batch)
    assert set(counts) == seen
    if len(seen) == 2:  # of 8 parts, 4 end in .5, and those always fall on an even l
        assert {counts[i] for i in range(1, total, 2)} == {12}
        assert {counts[i] for i in range(0, total, 2)} == {4}
    assert PROTOCOLS["llada"].scheme == "stratified"
    uniform(total, batch)

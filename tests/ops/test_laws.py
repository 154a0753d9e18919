"""Sums of a law over the vocabulary, and the extremes of a tile."""

from __future__ import annotations

import math

import pytest
import torch

from dlm_sampling import ops
from dlm_sampling.errors import NoLawError
from dlm_sampling.ops.filters import Boundary
from dlm_sampling.ops.laws import (
    LawSums,
    Reading,
    all_finite,
    entropy_of,
    joined,
    largest,
    other_than,
    refuse_lawless,
    sum_products,
)


def test_the_largest_the_first_of_equals_and_the_second() -> None:
    logits = torch.full((4, 96), -5.0)
    logits[0, [3, 70]] = torch.tensor([2.0, 1.0])  # the second in another run
    logits[1, [40, 41]] = torch.tensor([1.0, 2.0])  # the second in the same run
    logits[2, [33, 90]] = 7.0  # equal: the first is the largest, and the other the second
    logits[3, 0] = -math.inf
    before, place = logits.clone(), largest(logits)
    assert place[:, 0].tolist() == [3, 41, 33, 1]
    with ops.without_sync():
        assert torch.equal(largest(logits), place)
    assert other_than(logits, place).tolist() == [1.0, 1.0, 7.0, -5.0]
    assert torch.equal(logits, before)


def test_nothing_times_minus_infinity_is_nothing() -> None:
    products = torch.tensor([[[1.0, 2.0], [math.nan, 4.0]]])  # NaN is what 0 * (-inf) leaves
    assert sum_products(products, torch.empty(1, 2)).tolist() == [[3.0, 4.0]]
    with ops.without_sync():
        assert sum_products(products, torch.empty(1, 2)).tolist() == [[3.0, 4.0]]


def test_entropy_by_hand() -> None:
    """Weights 1, 1/2, 1/2 are 2 ** 0, 2 ** -1, 2 ** -1: H = ln 2 / 2 + 2 ln 4 / 4 = 1.5 ln 2."""
    products = torch.tensor([[0.0, -0.5 - 0.5]], dtype=torch.float64)
    found = entropy_of(torch.tensor([2.0], dtype=torch.float64), products)
    assert found.item() == pytest.approx(1.5 * math.log(2.0))
    certain = entropy_of(torch.ones(1, dtype=torch.float64), torch.full((1, 1), 1e-12).double())
    assert certain.item() == 0.0, "rounding leaves no negative entropy"


@pytest.mark.parametrize(
    ("value", "word"),
    [(math.nan, "NaN"), (math.inf, r"\+inf"), (-math.inf, "no token that may be drawn")],
)
def test_a_peak_that_is_not_finite_names_its_row(value: float, word: str) -> None:
    with pytest.raises(NoLawError, match=f"row 12 of the logits holds {word}"):
        refuse_lawless(torch.tensor([0.0, 1.0, value, 2.0]), 10)


def test_peaks_whose_sum_overflows_are_fine() -> None:
    refuse_lawless(torch.tensor([3e38, 3e38]), 0)
    assert all_finite(torch.tensor([3e38, 3e38]))
    assert not all_finite(torch.tensor([0.0, math.inf]))


@pytest.mark.parametrize("filtered", [False, True])
def test_readings_of_blocks_are_joined_row_by_row(filtered: bool) -> None:
    def reading(first: int, last: int) -> Reading:
        rows = torch.arange(first, last)
        edge = Boundary(rows.float(), rows, rows) if filtered else None
        sums = LawSums(rows[:, None].float(), rows.double(), None, edge)
        return Reading(None, rows.float(), None, sums, None, rows[:, None].float())

    one = reading(0, 2)
    assert joined([one]) is one
    found, wanted = joined([one, reading(2, 5)]), reading(0, 5)
    assert torch.equal(found.peak, wanted.peak) and found.best is None and found.tile is None
    assert found.shown is not None and wanted.shown is not None and found.drawn is None
    assert torch.equal(found.shown.tiles, wanted.shown.tiles)
    assert torch.equal(found.shown.total, wanted.shown.total) and found.shown.entropy is None
    assert (found.shown.boundary is not None) == filtered
    for part, whole in zip(found.shown.boundary or (), wanted.shown.boundary or (), strict=True):
        assert torch.equal(part, whole)

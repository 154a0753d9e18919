"""Values of tensors as Python values."""

from __future__ import annotations

import torch

from dlm_sampling.types.values import bools, distinct, float_rows, floats, int_rows, ints


def test_values_are_those_of_the_tensor() -> None:
    assert ints(torch.tensor([3, -1], dtype=torch.int32)) == [3, -1]
    assert floats(torch.tensor([0.5, -2.0])) == [0.5, -2.0]
    assert [type(x) for x in bools(torch.tensor([True, False]))] == [bool, bool]
    assert int_rows(torch.tensor([[1, 2], [3, 4]])) == [[1, 2], [3, 4]]
    assert float_rows(torch.tensor([[0.25], [1.0]])) == [[0.25], [1.0]]
    assert ints(torch.zeros(0, dtype=torch.long)) == []


def test_every_entry_is_found_among_the_different_ones() -> None:
    table = torch.tensor([[2, 1], [0, 5], [2, 1], [0, 4]])
    entries, number = distinct(table)
    assert int_rows(entries) == [[0, 4], [0, 5], [2, 1]]
    assert torch.equal(entries[number], table)
    entries, number = distinct(torch.tensor([7, 3, 7]))
    assert (ints(entries), ints(number)) == ([3, 7], [1, 0, 1])
    entries, number = distinct(torch.tensor([[0.5, 0.25]] * 3))
    assert (float_rows(entries), ints(number)) == ([[0.5, 0.25]], [0, 0, 0])
    for empty in (torch.zeros(0), torch.zeros(0, 2)):
        entries, number = distinct(empty)
        assert (entries.shape, number.shape) == (empty.shape, (0,))

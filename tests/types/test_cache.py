"""The store of keys and values: what a pass writes, sees, and leaves alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dlm_sampling.types import ColumnCache, LayerKeys

ROWS, LENGTH = 3, 6


def store() -> list[LayerKeys]:
    """Keys that tell their row and column, 100 row + column; values are larger by 1000."""
    number = 100.0 * torch.arange(ROWS)[:, None] + torch.arange(LENGTH + 1)
    keys = number[:, None, :, None].expand(ROWS, 2, LENGTH + 1, 1).clone()
    return [LayerKeys(keys, keys + 1000)]


def fresh(n: int, q: int) -> Tensor:
    return -1.0 - torch.arange(n * q).view(n, 1, q, 1).expand(n, 2, q, 1)


def update(layers: list[LayerKeys], query: Any, **given: Any) -> tuple[Tensor, Tensor]:
    query = torch.tensor(query)
    keys = given.pop("keys", torch.ones(len(query), LENGTH, dtype=torch.bool))
    cache = ColumnCache((ROWS, LENGTH), layers, query, keys, **given)
    new = fresh(*query.shape)
    return cache.update(new, new + 1000, 0)


def test_fresh_keys_lie_over_the_stored_ones_and_stay() -> None:
    layers = store()
    keys, values = update(layers, [[1, 3], [0, 5], [2, LENGTH]])
    assert keys.shape == (ROWS, 2, LENGTH, 1)
    assert keys[0, 0, :, 0].tolist() == [0, -1, 2, -2, 4, 5]
    assert keys[1, 1, :, 0].tolist() == [-3, 101, 102, 103, 104, -4]
    assert keys[2, 0, :, 0].tolist() == [200, 201, -5, 203, 204, 205]  # column L fills the row
    assert torch.equal(values, keys + 1000)
    assert torch.equal(layers[0].keys[:, :, :LENGTH], keys)


def test_a_pass_over_some_rows_writes_only_these() -> None:
    layers, before = store(), store()
    keys, _ = update(layers, [[4]], rows=torch.tensor([2]))
    assert keys[0, 0, :, 0].tolist() == [200, 201, 202, 203, -1, 205]
    assert torch.equal(layers[0].keys[:2], before[0].keys[:2])
    assert layers[0].keys[2, 0, 4] == -1


def test_keys_that_are_not_kept_leave_the_store_bit_for_bit_as_it_was() -> None:
    layers, before = store(), store()
    kept = torch.tensor([[False, True], [False, False], [False, False]])
    keys, _ = update(layers, [[1, 3], [0, 5], [2, 4]], kept=kept)
    assert keys[0, 0, :, 0].tolist() == [0, -1, 2, -2, 4, 5]  # seen all the same
    before[0].keys[0, :, 3], before[0].values[0, :, 3] = -2.0, 998.0
    for ours, wanted in ((layers[0].keys, before[0].keys), (layers[0].values, before[0].values)):
        assert torch.equal(ours[:, :, :LENGTH], wanted[:, :, :LENGTH])


def test_copies_of_a_row_do_not_see_each_other() -> None:
    keys, _ = update(store(), [[1], [1]], rows=torch.tensor([0, 0]))
    assert keys[:, 0, 1, 0].tolist() == [-1, -2]


def test_a_shared_pass_writes_all_of_its_rows() -> None:
    layers = store()
    update(
        layers, [[1, 3]], rows=torch.tensor([0]), shared=torch.tensor([[0, 2], [0, 0]])
    )  # fmt: skip
    assert layers[0].keys[:, 0, 1, 0].tolist() == [-1, 101, -1]
    assert layers[0].keys[:, 0, 3, 0].tolist() == [-2, 103, -2]


def test_a_layer_is_made_when_its_first_keys_arrive_and_only_columns_below_k_return() -> None:
    layers: list[LayerKeys] = []
    seen = torch.ones(ROWS, 4, dtype=torch.bool)
    keys, _ = update(layers, [[0], [1], [2]], keys=seen)
    assert keys.shape == (ROWS, 2, 4, 1)
    assert layers[0].keys.shape == (ROWS, 2, LENGTH + 1, 1)


def test_columns_are_found_in_the_query() -> None:
    query = torch.tensor([[1, 3, 6], [0, 2, 5]])
    cache = ColumnCache((2, LENGTH), [], query, torch.ones(2, LENGTH, dtype=torch.bool))
    assert cache.place(torch.tensor([[3, 1], [5, 0]])).tolist() == [[1, 0], [2, 0]]

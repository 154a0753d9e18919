"""Trees of row tensors: what is done to one tensor is done to all of them."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from types import MappingProxyType, SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from dlm_sampling.types.rows import (
    copy_rows,
    no_rows,
    repeat_rows,
    row_tensors,
    select_rows,
    split_rows,
    store_rows,
    where_rows,
    with_parts,
)


class Pair(NamedTuple):
    left: Tensor
    right: Any


@dataclass(frozen=True)
class Tree:
    plain: Tensor
    pair: Pair
    tuple_: tuple[Tensor, ...]
    name: str = "all rows"
    nothing: Tensor | None = None


def tree(offset: int = 0) -> Tree:
    rows = torch.arange(4) + offset
    return Tree(rows, Pair(rows * 10, (rows.double() / 2,)), (rows[:, None] + torch.arange(3),))


@pytest.mark.parametrize(
    "index",
    [torch.tensor([True, False, True, False]), torch.tensor([3, 0]), torch.tensor([1, 1, 2, 1])],
    ids=["drop", "reorder", "repeat"],
)
def test_select_acts_on_every_tensor(index: Tensor) -> None:
    found, whole = select_rows(tree(), index), tree()
    assert torch.equal(found.plain, whole.plain[index])
    assert torch.equal(found.pair.left, whole.pair.left[index])
    assert torch.equal(found.pair.right[0], whole.pair.right[0][index])
    assert torch.equal(found.tuple_[0], whole.tuple_[0][index])
    assert found.name == "all rows"
    assert found.nothing is None


def test_repeat_puts_copies_of_a_row_side_by_side() -> None:
    for part, whole in zip(row_tensors(repeat_rows(tree(), 2)), row_tensors(tree()), strict=True):
        assert torch.equal(part, whole[torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])])


@pytest.mark.parametrize("size", [1, 3, 4, 9])
def test_split_keeps_every_row_in_order_and_copies_nothing(size: int) -> None:
    whole = tree()
    parts = list(split_rows(whole, size))
    assert [len(part.plain) for part in parts] == {3: [3, 1], 1: [1] * 4}.get(size, [4])
    columns = zip(*map(row_tensors, parts), strict=True)
    for column, kept in zip(columns, row_tensors(whole), strict=True):
        assert torch.equal(torch.cat(column), kept)
        assert column[0].data_ptr() == kept.data_ptr()
    none = no_rows(whole)
    assert [part.shape for part in row_tensors(none)] == [
        part[:0].shape for part in row_tensors(whole)
    ]
    assert not list(split_rows(none, size))


def test_where_takes_rows_of_one_tree_or_the_other_and_keeps_the_dtype() -> None:
    old, new = tree(), tree(100)
    rows = torch.tensor([True, False, False, True])
    for a, b, c in zip(*map(row_tensors, (where_rows(rows, new, old), new, old)), strict=True):
        assert a.dtype == c.dtype
        assert torch.equal(a[rows], b[rows])
        assert torch.equal(a[~rows], c[~rows])
    same = where_rows(rows, Pair(old.plain, 1), Pair(old.plain, 1))
    assert same.left is old.plain, "an unchanged tensor is not copied"


def test_copy_shares_no_memory() -> None:
    one = tree()
    for a, b in zip(row_tensors(copy_rows(one)), row_tensors(one), strict=True):
        assert torch.equal(a, b)
        assert a.data_ptr() != b.data_ptr()


def test_store_replaces_rows() -> None:
    stored = store_rows(tree(), torch.tensor([2, 0]), select_rows(tree(50), torch.tensor([1, 3])))
    assert stored.plain.tolist() == [53, 1, 51, 3]
    assert stored.pair.left.tolist() == [530, 10, 510, 30]


def test_trees_of_other_parts_are_refused() -> None:
    """Any of them would leave rows behind without a word."""
    a = torch.zeros(2, 3)
    pairs: list[tuple[Any, Any]] = [
        (a, None), (None, a), ((a, a), (a,)), ((a,), (a, a)), ((a,), None), (None, (a,)),
        (Pair(a, a), (a, a)), (tree(), Pair(a, a)),
    ]  # fmt: skip
    for new, old in pairs:
        with pytest.raises(ValueError, match="do not match"):
            where_rows(torch.tensor([True, False]), (a, new), (a, old))


@pytest.mark.parametrize(
    ("new", "old"), [(1, 0), (0.5, 0.0), (True, False), ("b", "a"), (1, 1.0), (True, 1), (0, None)]
)
def test_values_of_all_rows_are_the_same_in_trees_that_are_merged(new: Any, old: Any) -> None:
    """Whichever was taken, the rows of the other tree would go on with a value not theirs."""
    a, rows = torch.zeros(2, 3), torch.tensor([True, False])
    for fn in (where_rows, lambda _, *trees: store_rows(trees[1], rows.nonzero()[0], trees[0])):
        with pytest.raises(ValueError, match="in the same place"):
            fn(rows, Pair(a[:1], (a[:1], new)), Pair(a, (a, old)))
    words = r"hold 1 and 0 in the same place: a number .* must not change; keep .* int64 \[B\]"
    with pytest.raises(ValueError, match=words):
        where_rows(rows, (a, 1), (a, 0))
    nan = float("nan")
    assert where_rows(rows, (a, nan), (a, nan))[1] is nan


@pytest.mark.parametrize(
    "holder", [[torch.zeros(2)], {"a": torch.zeros(2)}, deque([torch.zeros(2)]),
               SimpleNamespace(a=torch.zeros(2)), MappingProxyType({"a": torch.zeros(2)})],
    ids=lambda holder: type(holder).__name__,
)  # fmt: skip
def test_other_objects_that_may_hold_tensors_are_refused(holder: Any) -> None:
    with pytest.raises(TypeError, match=f"holds a {type(holder).__name__}"):
        select_rows((torch.zeros(2), holder), torch.tensor([0]))


def test_numbers_and_strings_belong_to_all_rows() -> None:
    shared = (None, True, 3, 0.5, "word", torch.float32, torch.device("cpu"))
    assert select_rows((torch.arange(3), *shared), torch.tensor([2]))[1:] == shared


def test_other_parts_leave_the_rest_and_the_tree_as_they_are() -> None:
    whole, rows = tree(), torch.arange(4) + 7
    found = with_parts(whole, plain=rows, nothing=rows)
    assert type(found) is Tree
    assert found.plain is rows and found.nothing is rows
    assert found.pair is whole.pair and found.tuple_ is whole.tuple_
    assert whole.nothing is None and torch.equal(whole.plain, tree().plain)
    assert repr(found) == repr(replace(whole, plain=rows, nothing=rows))

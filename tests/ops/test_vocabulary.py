"""Tiles of a vocabulary, and the ids that may be drawn."""

from __future__ import annotations

import pytest
import torch

from dlm_sampling.ops.vocabulary import Columns, allowed_ids, grid

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("vocab", "tiles", "width"),
    [(1, 1, 32), (32, 1, 32), (33, 1, 64), (1024, 1, 1024), (1025, 2, 1024), (2048, 2, 1024)],
)
def test_a_small_vocabulary_is_one_narrow_tile(vocab: int, tiles: int, width: int) -> None:
    assert grid(vocab) == (tiles, width)


@pytest.mark.parametrize(
    ("ids", "stretches"),
    [
        ([], ()),
        ([4], ((4, 1),)),
        ([0, 1, 2, 7, 9, 10], ((0, 3), (7, 1), (9, 2))),
        ([*range(0, 40, 2)], tuple((i, 1) for i in range(0, 40, 2))),  # written all at once
    ],
)
def test_columns_are_filled_and_no_others(ids: list[int], stretches: object) -> None:
    columns, rows = Columns.of(ids, CPU), torch.zeros(2, 41)
    assert columns.stretches == stretches
    columns.fill(rows, 3.0)
    assert [i for i in range(41) if rows[1, i] == 3.0] == ids
    assert torch.equal(rows[0], rows[1]) and float(rows.sum()) == 6.0 * len(ids)


def test_banned_are_the_suppressed_ids_and_what_is_no_id() -> None:
    allowed = allowed_ids(1026, (5, 1025, 5), CPU)
    assert allowed.suppressed.ids.tolist() == [5, 1025]
    assert allowed.banned.ids.tolist() == [5, *range(1025, 2048)]
    assert allowed.mask.view(-1).nonzero()[:, 0].tolist() == [5, *range(1025, 2048)]
    assert allowed.whole_tiles is not None and allowed.whole_tiles.tolist() == [0]
    assert allowed.tail is not None and allowed.tail.tolist() == [False, True]


def test_tables_that_are_not_needed_are_none() -> None:
    nothing = allowed_ids(1026, (), CPU)
    assert nothing.whole_tiles is None and nothing.tail is None
    first, last = allowed_ids(1026, (5,), CPU), allowed_ids(1026, (1024,), CPU)
    assert first.whole_tiles is not None and first.tail is None
    assert last.whole_tiles is None and last.tail is not None


def test_an_id_outside_of_the_vocabulary_is_named() -> None:
    for wrong in (-1, 9):
        with pytest.raises(ValueError, match=rf"suppressed id {wrong} is unknown: .*\[0, 9\)"):
            allowed_ids(9, (3, wrong), CPU)

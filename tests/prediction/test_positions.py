"""Positions as a list: as many as are asked for, or all of a window with the asked ones marked."""

from __future__ import annotations

import torch

from dlm_sampling.prediction.positions import Sites

WHERE = torch.tensor([[False, True, True, False], [False] * 4, [True, False, False, True]])
VALUES = torch.arange(12).view(3, 4)
COLUMNS = torch.tensor([[1, 2], [2, 3], [3, 0]])  # the window of each row


def test_asked_positions_come_in_row_major_order() -> None:
    sites = Sites.of(WHERE)
    assert len(sites) == 4
    assert sites.row.tolist() == [0, 0, 2, 2]
    assert sites.column.tolist() == [1, 2, 0, 3]
    assert sites.read(VALUES).tolist() == [1, 2, 8, 11]
    assert sites.present(sites.row).tolist() == [0, 0, 2, 2]


def test_a_window_has_a_fixed_length_and_marks_what_was_asked_for() -> None:
    sites = Sites.within(WHERE, COLUMNS)
    assert len(sites) == COLUMNS.numel()
    assert sites.read(VALUES).tolist() == [1, 2, 6, 7, 11, 8]
    assert sites.present(sites.row).tolist() == [0, 0, -1, -1, 2, 2]


def test_both_spread_the_same_values_to_the_same_places() -> None:
    asked = VALUES * WHERE
    for sites in (Sites.of(WHERE), Sites.within(WHERE, COLUMNS)):
        assert torch.equal(sites.spread(sites.read(VALUES)), asked)
        holes = torch.where(WHERE, 1.0, torch.nan)  # what was not asked for may be anything
        assert torch.equal(sites.spread(sites.read(holes)), WHERE.float())


def test_nothing_asked_for() -> None:
    sites = Sites.of(torch.zeros(2, 3, dtype=torch.bool))
    assert len(sites) == 0
    assert sites.spread(torch.ones(0)).tolist() == [[0.0] * 3] * 2

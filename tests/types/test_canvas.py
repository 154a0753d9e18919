"""The canvas and its clock: which positions a step may reveal, and when a block is over."""

from __future__ import annotations

import pytest
import torch

from dlm_sampling.types import Canvas, Clock, Step

# Row 0: the block is columns 1 to 4, of which 1 and 4 are written.  Row 1 has no position left.
UNKNOWN = torch.tensor([[1, 0, 1, 1, 0, 1], [1, 1, 0, 0, 0, 0]]).bool()
EDITABLE = torch.tensor([[0, 1, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0]]).bool()


def canvas(mask: int | None = 9) -> Canvas:
    tokens = torch.arange(12).view(2, 6)
    return Canvas(tokens, UNKNOWN, EDITABLE, torch.tensor([1, 6]), mask)


def test_positions_of_the_block_are_eligible_or_committed() -> None:
    found = canvas()
    assert found.eligible.int().tolist() == [[0, 0, 1, 1, 0, 0], [0] * 6]
    assert found.committed.int().tolist() == [[0, 1, 0, 0, 1, 0], [0] * 6]


def test_the_time_is_the_unknown_share_of_the_block_and_zero_without_a_block() -> None:
    found = canvas().unknown_fraction
    assert found.dtype == torch.float64
    assert found.tolist() == [0.5, 0.0]
    assert canvas().left.tolist() == [2, 0]
    counted = canvas()._replace(width=torch.tensor([8.0, 1.0], dtype=torch.float64))
    assert counted.unknown_fraction.tolist() == [0.25, 0.0]


def test_another_canvas_counts_its_positions_anew() -> None:
    first = canvas()
    assert first.eligible.any()
    assert not first._replace(unknown=UNKNOWN & ~EDITABLE).eligible.any()


def test_the_mask_is_named_by_its_id_and_never_guessed() -> None:
    assert canvas().mask == 9
    assert canvas(0).mask == 0
    with pytest.raises(ValueError, match="mask_token_id is None: this rule needs"):
        _ = canvas(None).mask


def test_each_row_has_a_last_step_of_its_own() -> None:
    clock = Clock(torch.tensor([0, 2, 3, 0, 5]), torch.tensor([4, 4, 4, 1, 4]))
    assert clock.last.tolist() == [False, False, True, True, True]


def test_a_step_of_which_nothing_is_known_names_no_draw() -> None:
    tokens = torch.zeros(1, 2, dtype=torch.int64)
    assert Step(tokens, tokens.bool(), tokens.float()).draw is None


def test_a_clock_begins_where_it_is_told_and_follows_given_times() -> None:
    step = torch.tensor([0, 1, 4])
    even = torch.tensor([1.0, 0.7525, 0.01], dtype=torch.float64)  # four steps from 1 to 0.01
    plain = Clock(step, torch.full_like(step, 4))
    assert plain.at(even, 0.01) is even
    assert plain.progress(1).tolist() == [0.25, 0.5, 1.0]
    late = plain._replace(begin=0.51)
    torch.testing.assert_close(late.at(even, 0.01), torch.tensor([0.51, 0.385, 0.01]).double())
    torch.testing.assert_close(late.progress(1), torch.tensor([0.6175, 0.745, 1.0]).double())
    times = torch.tensor([1.0, 0.6, 0.4, 0.1, 0.0], dtype=torch.float64)
    own = plain._replace(times=times)
    torch.testing.assert_close(own.at(even, 0.01), torch.tensor([1.0, 0.6, 0.01]).double())
    between = torch.tensor([0.875, 0.625], dtype=torch.float64)  # half-way through two intervals
    torch.testing.assert_close(own.at(between, 0.0), torch.tensor([0.8, 0.5]).double())

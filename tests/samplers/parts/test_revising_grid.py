"""The grid of solvers that revise: equal steps from time 1 to 0, by its numbers."""

from __future__ import annotations

import pytest
import torch

from dlm_sampling.samplers import FlowMatching
from dlm_sampling.types import Clock
from tests.samplers.parts.test_grid_move import check_rows


def test_steps_are_equal_and_their_progress_is_their_share() -> None:
    clock = Clock(torch.tensor([0, 1, 3, 5]), torch.tensor([4, 4, 4, 8]))
    t, s, progress = FlowMatching().interval(clock)
    assert t.tolist() == [1.0, 0.75, 0.25, 0.375]
    assert s.tolist() == [0.75, 0.5, 0.0, 0.25]
    assert progress.tolist() == [0.0, 0.25, 0.75, 0.625]


@pytest.mark.parametrize("mask", [None, 7])
def test_rows_that_end_and_rows_that_go_on_share_a_step(mask: int | None) -> None:
    check_rows(FlowMatching(), 1, mask)

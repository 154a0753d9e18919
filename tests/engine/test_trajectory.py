"""The steps of a run add up to every canvas, row by row."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dlm_sampling.engine.trajectory import StepEvent, Trajectory

INITIAL = torch.tensor([[9, 9], [9, 9], [7, 7]])
ONE = torch.tensor([[1, 9], [9, 2]])
TWO = torch.tensor([[3, 2]])


def event(
    rows: list[int], before: torch.Tensor, tokens: torch.Tensor, told: list[bool]
) -> StepEvent:
    n = torch.zeros(len(rows), dtype=torch.int64)
    some = torch.zeros(tokens.shape)
    return StepEvent(
        iteration=0, rows=torch.tensor(rows), before=before, tokens=tokens, unknown=some.bool(),
        written=before != tokens, block=n, step=n, nfe=n, forwarded=torch.tensor(told),
        logprob=some, log_confidence=None, entropy=None, final=n.bool(),
    )  # fmt: skip


@pytest.fixture
def trajectory() -> Trajectory:
    """Rows 0 and 1 step, then row 1 alone without a forward pass; row 2 had nothing to write."""
    events = [event([0, 1], INITIAL[:2], ONE, [True, True]), event([1], ONE[1:], TWO, [False])]
    return Trajectory(INITIAL, torch.ones(3, 2, dtype=torch.bool), events)


def test_steps_of_a_row_with_its_place_in_the_event(trajectory: Trajectory) -> None:
    first, second = trajectory.events
    assert trajectory.steps(0) == [(first, 0)]
    assert trajectory.steps(1) == [(first, 1), (second, 0)]
    assert trajectory.steps(2) == []


def test_canvases_before_each_step(trajectory: Trajectory) -> None:
    assert trajectory.canvases(1).tolist() == [[9, 9], [9, 2]]
    assert trajectory.canvases(1, forwards_only=True).tolist() == [[9, 9]]
    assert trajectory.canvases(2).shape == (0, 2)


def test_the_canvas_after_some_steps(trajectory: Trajectory) -> None:
    assert [trajectory.canvas(1, step).tolist() for step in range(3)] == [[9, 9], [9, 2], [3, 2]]
    assert trajectory.canvas(2, 0).tolist() == [7, 7]
    for step in (3, -1):
        with pytest.raises(IndexError, match=f"step={step}: row 1 has 2 steps; allowed are 0 to 2"):
            trajectory.canvas(1, step)


def test_resampled_rows_are_followed_back_through_their_parents() -> None:
    """After the first step both rows go on from row 1, so that its first token is that of both."""
    both = torch.tensor([[9, 2], [9, 2]])
    ends = torch.tensor([[4, 2], [5, 2]])
    events = [
        replace(event([0, 1], INITIAL[:2], ONE, [True, True]), parents=torch.tensor([1, 1])),
        replace(event([0, 1], both, ends, [True, True]), parents=torch.tensor([0, 1])),
    ]
    run = Trajectory(INITIAL, torch.ones(3, 2, dtype=torch.bool), events)
    assert [index for _, index in run.steps(0)] == [1, 0]
    assert run.canvases(0).tolist() == [[9, 9], [9, 2]]
    assert [run.canvas(0, step).tolist() for step in range(3)] == [[9, 9], [9, 2], [4, 2]]
    paths = run.paths()
    assert [e.tokens.tolist() for e in paths.events] == [[[9, 2], [9, 2]], ends.tolist()]
    assert [paths.canvas(0, step).tolist() for step in range(3)] == [[9, 9], [9, 2], [4, 2]]
    assert all(e.parents is None for e in paths.events) and paths.paths() is paths

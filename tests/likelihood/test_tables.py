"""Tables of steps and changes: order, ranks and last changes, and the events they give back."""

from __future__ import annotations

import torch

from dlm_sampling import samplers
from dlm_sampling.likelihood.tables import (
    Recorder,
    Writes,
    in_order,
    last_change,
    rank_in_row,
    rebuilt_events,
    rows_of,
    segments,
)
from dlm_sampling.types import TokenLaw
from tests.samplers.small import run, small_toy


def writes(row: list[int], iteration: list[int], position: list[int], token: list[int]) -> Writes:
    columns = [torch.tensor(c, dtype=torch.int32) for c in (row, iteration, position, token)]
    none = torch.zeros(len(row))
    return Writes(*columns, none.bool(), none.to(torch.int8), none)


def test_the_last_change_of_a_position_counts() -> None:
    table = writes([0, 1, 0, 0], [0, 0, 1, 2], [1, 0, 1, 2], [5, 6, 7, 8])
    found = last_change(torch.zeros(2, 3, dtype=torch.int64), table, table.token, keep=-1)
    assert found.tolist() == [[-1, 7, 8], [6, -1, -1]]
    assert segments(table.iteration) == {0: slice(0, 2), 1: slice(2, 3), 2: slice(3, 4)}
    assert segments(table.iteration[:0]) == {}
    assert rank_in_row(table.row.long(), 3).tolist() == [0, 0, 1, 2]


def test_rows_are_taken_in_order_and_may_repeat() -> None:
    table = writes([0, 1, 0, 1], [0, 0, 1, 1], [0, 1, 2, 3], [5, 6, 7, 8])
    row, iteration, position, *_ = rows_of(table, torch.tensor([1, 0, 1]), 2)
    assert row.tolist() == [0, 1, 2, 0, 1, 2]
    assert iteration.tolist() == [0, 0, 0, 1, 1, 1]
    assert position.tolist() == [1, 0, 1, 3, 2, 3]
    late = in_order([torch.tensor([0, 1, 2]), torch.tensor([3, 1, 3])])
    assert late[0].tolist() == [1, 0, 2]


def test_events_go_through_tables_and_back() -> None:
    """Tokens are masked again, rows end at different steps, and nothing is lost."""
    toy = small_toy(length=7, vocab_size=9)
    out = run(toy, samplers.create("remdm-cap", eta=0.5), length=7, rows=5, prompt=[1],
              steps=6, law=TokenLaw(), block_length=3)  # fmt: skip
    trajectory = out.trajectory
    assert trajectory is not None
    recorder = Recorder(trajectory.editable, masked=True)
    for event in trajectory.events:
        recorder(event)
    steps, changes = recorder.tables()
    assert torch.equal(recorder.initial(out.tokens), trajectory.initial)
    assert not recorder.unknown[trajectory.editable].any()
    again = rebuilt_events(trajectory.initial, trajectory.editable, steps, changes, None)
    for event, wanted in zip(again, trajectory.events, strict=True):
        for name in ("rows", "before", "tokens", "unknown", "written", "block", "step", "drawn"):
            assert torch.equal(getattr(event, name), getattr(wanted, name)), name
        gap = (event.logprob - wanted.logprob)[wanted.written]
        assert not gap.any()
    nothing = Recorder(trajectory.editable, masked=True).tables()
    assert all(len(column) == 0 for table in nothing for column in table)

"""Hitting times: their law, and the groups that they form."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dlm_sampling import ops
from dlm_sampling.samplers.parts.hitting_times import Hits, HitState
from dlm_sampling.schedules import LINEAR, Cosine, LogLinear, Schedule
from dlm_sampling.types import Canvas, Clock

EDITABLE = torch.tensor([[1, 1, 1, 1, 0], [0, 1, 1, 1, 1]]).bool()
UNKNOWN = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 1, 1]]).bool()
CANVAS = Canvas(torch.zeros(2, 5).long(), UNKNOWN, EDITABLE, torch.zeros(2).long(), 9)
TAU = torch.tensor([[0.9, 0.2, 0.6, 0.3, 0.99], [0.95, 0.1, 0.8, 0.7, 0.4]]).double()


def clock(step: int, steps: int) -> Clock:
    return Clock(torch.full((2,), step), torch.full((2,), steps))


@pytest.mark.parametrize("schedule", [LINEAR, Cosine(), LogLinear(0.1)])
def test_the_level_at_a_hit_is_uniform_above_the_first_one(
    schedule: Schedule, monkeypatch: pytest.MonkeyPatch
) -> None:
    u = torch.tensor([[0.1, 0.5, 0.9, 0.3, 0.7], [0.2, 0.4, 0.6, 0.8, 0.99]], dtype=torch.float64)

    def uniform(self: ops.Rng, stream: int, like: Tensor, sub: int = 0) -> Tensor:
        return u

    monkeypatch.setattr(ops.Rng, "uniform", uniform)
    hits = Hits(schedule=schedule)
    rng = ops.Rng.from_seeds([0, 1])
    begun = Clock(torch.tensor([0, 2]), torch.tensor([4, 4]))
    state = hits.enter_block(HitState(TAU, torch.tensor([7, 7])), CANVAS, begun, rng)
    noisy = 1 - float(schedule.alpha(torch.ones((), dtype=torch.float64)))
    torch.testing.assert_close(1 - schedule.alpha(state.tau[0]), u[0] * noisy)
    assert torch.equal(state.tau[1], TAU[1])
    assert state.total.tolist() == [4, 7], "counted where a row enters a block"
    fresh = hits.init(CANVAS)
    assert not fresh.tau.any() and fresh.total.tolist() == [0, 0]


def test_groups_have_a_size_or_the_quota_of_the_step() -> None:
    """The latest times first, at the time of the first of them."""
    state = HitState(TAU, torch.tensor([4, 3]))
    where, t = Hits(2).next_group(state, CANVAS, clock(0, 3))
    assert where.int().tolist() == [[1, 0, 1, 0, 0], [0, 0, 0, 1, 1]]
    assert t.tolist() == [0.9, 0.7] or torch.allclose(t, TAU[[0, 1], [0, 3]])
    quota, _ = Hits().next_group(state, CANVAS, clock(0, 3))
    assert quota.sum(1).tolist() == [2, 1]
    later, _ = Hits().next_group(state, CANVAS, clock(1, 3))
    assert later.sum(1).tolist() == [1, 1]
    assert Hits(2).schedule_length(5) is None and Hits().schedule_length(5) == 5


def test_groups_of_a_grid_are_its_intervals() -> None:
    hits = Hits(grid=True, t_end=0.2)
    state = HitState(TAU, torch.tensor([4, 3]))
    assert hits.schedule_length(4) == 5
    for step, wanted, time in (
        (0, [[1, 0, 0, 0, 0], [0, 0, 0, 0, 0]], 1.0),
        (1, [[1, 0, 1, 0, 0], [0, 0, 0, 1, 0]], 0.8),
        (3, [[1, 1, 1, 1, 0], [0, 0, 0, 1, 1]], 0.4),
        (4, [[1, 1, 1, 1, 0], [0, 1, 0, 1, 1]], 0.2),
    ):
        where, t = hits.next_group(state, CANVAS, clock(step, 4))
        assert where.int().tolist() == wanted
        torch.testing.assert_close(t, torch.full((2,), time, dtype=torch.float64))


def test_fields_are_checked() -> None:
    Hits(1)
    with pytest.raises(ValueError, match="tokens_per_step=0: must be at least 1"):
        Hits(0)
    with pytest.raises(ValueError, match=r"t_end=1\.0"):
        Hits(t_end=1.0)

"""Dream's random choice of positions: softmax(score / alg_temp), without replacement."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dlm_sampling.samplers import create
from dlm_sampling.samplers.dream import Dream, DreamOrigin, unmask_fraction
from dlm_sampling.testing import chi_square
from dlm_sampling.types import Clock
from tests.samplers.adaptive import constant, run

PROBS = [[0.9, 0.05, 0.05], [0.7, 0.2, 0.1], [0.5, 0.3, 0.2]]
MARGINS = torch.tensor([0.85, 0.5, 0.2], dtype=torch.float64)


@pytest.mark.parametrize("alg_temp", [0.25, 3.0])
def test_the_first_position_is_drawn_at_the_temperature_of_positions(alg_temp: float) -> None:
    """The first of two steps writes floor(3 / 2) = 1 of three positions."""
    sampler = create("dream-topk-margin", alg_temp=alg_temp)
    out = run(constant(PROBS), sampler, 3, rows=3000, steps=2, return_trajectory=True)
    assert out.trajectory is not None
    written = out.trajectory.events[0].written
    assert bool((written.sum(1) == 1).all())
    counts = written.sum(0)
    assert chi_square(counts, (MARGINS / alg_temp).softmax(0)).p > 1e-4
    assert chi_square(counts, (MARGINS * alg_temp).softmax(0)).p < 1e-6


@pytest.mark.parametrize("eps", [1e-3, 0.2])
def test_a_step_writes_its_share_of_what_is_masked(eps: float) -> None:
    """1 - s / t on the grid from 1 to eps; the last step writes all."""
    for step in range(4):
        t, s = (1 - (1 - eps) * k / 4 for k in (step, step + 1))
        clock = Clock(torch.tensor([step]), torch.tensor([4]))
        wanted = 1.0 if step == 3 else 1 - s / t
        assert float(unmask_fraction(clock, eps)) == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("order", ["confidence", "margin", "entropy"])
def test_quotas_are_rounded_down_and_the_best_come_first(order: Any) -> None:
    """3 positions, shares just below 1/4, 1/3 and 1/2, then all; the surest is the first."""
    out = run(constant(PROBS), Dream(order), 3, steps=4, return_trajectory=True)
    assert out.trajectory is not None
    written = [event.written[0].nonzero().flatten().tolist() for event in out.trajectory.events]
    assert written == [[], [], [0], [1, 2]]
    assert int(out.nfe) == 2
    assert Dream(order).exact is (order != "confidence")


def test_the_origin_reveals_each_position_with_that_probability() -> None:
    wide = constant([[0.9, 0.1]] * 4000)
    out = run(wide, DreamOrigin(0.1), 4000, steps=3, return_trajectory=True)
    assert out.trajectory is not None
    left, total = 4000, 4000
    for step, event in enumerate(out.trajectory.events):
        t, s = (1 - 0.9 * k / 3 for k in (step, step + 1))
        share = 1.0 if step == 2 else 1 - s / t
        found = int(event.written.sum())
        assert abs(found - left * share) <= 4.5 * (left * share * (1 - share)) ** 0.5
        left -= found
    assert left == 0 and total == int((out.tokens != 2).sum())


def test_parameters_are_checked() -> None:
    for sampler in (Dream, DreamOrigin):
        for eps in (0.0, 1.0, -0.1):
            with pytest.raises(ValueError, match=r"eps=.*: must be in \(0, 1\)"):
                sampler(eps=eps)
    with pytest.raises(ValueError, match="alg_temp=-1"):
        Dream(alg_temp=-1.0)
    with pytest.raises(ValueError, match="order='random'"):
        Dream("random")
    assert create("dream-maskgit-plus") == Dream("confidence")
    assert create("dream-entropy", eps=0.1) == Dream("entropy", None, 0.1)

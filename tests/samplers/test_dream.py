"""Dream's random choice of positions: softmax(score / alg_temp), without replacement."""

from __future__ import annotations

import pytest
import torch

from dlm_sampling.samplers import create
from dlm_sampling.testing import chi_square
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

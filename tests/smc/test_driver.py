"""The driver of particles: carried states follow their rows, and uniform noise is no exception."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from dlm_sampling import AutoDenoiser, replay, sample, samplers
from dlm_sampling.embedded import embedded_path
from dlm_sampling.smc import RewardTarget, sample_particles
from dlm_sampling.testing.sudoku import all_grids
from dlm_sampling.types import TokenLaw
from tests.guidance.test_best_of import reward
from tests.guidance.toys import LENGTH, NOISY_P

pytestmark = pytest.mark.slow


def test_a_carried_state_goes_with_its_particle() -> None:
    """Replayed with states of its own, a path has the probabilities that its particle drew from."""
    denoiser = AutoDenoiser.from_pretrained(embedded_path("sudoku4x4-loopholing"))
    assert denoiser.carries
    grid, editable = all_grids()[100:101], torch.arange(16).unsqueeze(0) < 12
    worth = torch.tensor([1.0, 2.0, 0.5, 0.2])
    target = RewardTarget(lambda grids: (grids[:, :4] * worth).sum(1), draws=1)
    out = sample_particles(
        denoiser, samplers.create("sdar-sequential"), grid, editable, target, particles=4,
        seeds=[4], steps=8, threshold=1.0, every=2, return_trajectory=True,
    )  # fmt: skip
    assert bool((out.ancestors[:-1] != torch.arange(4)).any())
    assert out.trajectory is not None
    drawn = torch.zeros(4, 16)
    for event in out.trajectory.paths().events:
        drawn[event.rows] += event.logprob * event.written
    scored = replay(denoiser, out.trajectory).logprob
    torch.testing.assert_close(scored, drawn, rtol=0, atol=1e-5)


def test_uniform_noise_is_steered_too() -> None:
    """Z is the mean of exp r over plain runs of the same sampler."""
    sampler: Any = samplers.create("tweedie")

    def canvas(rows: int) -> Tensor:
        return torch.zeros(rows, LENGTH, dtype=torch.int64)

    plain = sample(
        NOISY_P, sampler, canvas(2000), canvas(2000) == 0, seeds=range(2000), steps=5,
        law=TokenLaw(),
    )  # fmt: skip
    alone = reward(plain.tokens).exp()
    out = sample_particles(
        NOISY_P, sampler, canvas(150), canvas(150) == 0, RewardTarget(reward, 1.0), particles=8,
        seeds=range(5000, 5150), steps=5,
    )  # fmt: skip
    found = out.log_normalizer.exp()
    noise = math.sqrt(float(alone.var()) / 2000 + float(found.var()) / 150)
    assert abs(float(found.mean() - alone.mean())) < 3.5 * noise
    assert float(found.mean()) > 1.1 or float(found.mean()) < 0.9  # not the mean of nothing
    weighted = (out.log_weights.exp() * reward(out.tokens.flatten(0, 1)).view(150, 8)).sum(1)
    assert float(weighted.mean()) > float(reward(plain.tokens).mean()) + 0.3

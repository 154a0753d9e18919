"""Twisted proposals: exact twists leave nothing to weigh, and inexact ones are corrected."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from dlm_sampling import ops, sample, samplers
from dlm_sampling.guidance import Classifier
from dlm_sampling.smc import TwistedTarget, sample_particles
from dlm_sampling.testing import chi_square, count_states
from dlm_sampling.types import TokenLaw
from tests.guidance.test_best_of import PLACES, REWARD, TILTED, reward, soft_value
from tests.guidance.toys import EXACT_P, LENGTH, MASK, NOISY_P, P, S

MASS = float((P.flatten() * REWARD.exp()).sum())
ROUGH = torch.randn(LENGTH, S + 1, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def linear(canvas: Tensor) -> Tensor:
    """A rough twist, linear in the one-hot canvas [n, L, V]."""
    return (canvas.double() * ROUGH).sum((1, 2))


def rough(canvas: Tensor) -> Tensor:
    return linear(torch.nn.functional.one_hot(canvas, S + 1))


def run(target: Any, groups: int, particles: int, **options: Any) -> Any:
    empty = torch.zeros(groups, LENGTH, dtype=torch.int64)
    sampler = samplers.create(options.pop("sampler", "llada-random"))
    return sample_particles(
        options.pop("denoiser", EXACT_P), sampler, empty, empty == 0, target,
        particles=particles, seeds=range(groups), **options,
    )  # fmt: skip


def test_with_the_exact_twist_every_particle_is_an_exact_draw() -> None:
    out = run(TwistedTarget(soft_value), 800, 1, guidance=Classifier(soft_value, S + 1))
    torch.testing.assert_close(
        out.log_normalizer, torch.full((800,), math.log(MASS)).double(), rtol=0, atol=2e-6
    )
    assert chi_square(count_states(out.tokens[:, 0], S), TILTED).p > 1e-3
    assert chi_square(count_states(out.tokens[:, 0], S), P.flatten()).p < 1e-6
    assert out.nfe.unique().tolist() == [LENGTH]


@pytest.mark.slow
@pytest.mark.parametrize("order", ["exact", "first"])
def test_a_rough_twist_is_corrected(order: Any) -> None:
    """With another twist and a temperature, the mass of every text is unbiased at K 1 and K 8."""
    guide = Classifier(rough if order == "exact" else linear, S + 1, 0.7, order)
    target = TwistedTarget(rough, reward)
    for particles, groups in ((1, 1000), (8, 250)):
        out = run(target, groups, particles, guidance=guide, law=TokenLaw(temperature=1.3))
        shares = (out.log_weights + out.log_normalizer.unsqueeze(1)).exp()
        texts = torch.nn.functional.one_hot(out.tokens @ PLACES, S**LENGTH).double()
        found = (shares.unsqueeze(2) * texts).sum(1)  # of every group and text
        often = (found > 0.0).sum(0) > 20
        noise = found.std(0) / math.sqrt(groups)
        z = ((found.mean(0) - MASS * TILTED) / noise)[often]
        assert int(often.sum()) > 9
        assert float(z.abs().max()) < 4.0 and 0.5 < float(z.std()) < 1.5
        total = out.log_normalizer.exp()
        assert abs(float((total.mean() - MASS) / (total.std() / math.sqrt(groups)))) < 3.5


def test_without_a_twist_it_is_the_plain_run() -> None:
    out = run(TwistedTarget(lambda x: torch.zeros(len(x))), 3, 4, threshold=1.0)
    seeds = [seed for row in range(3) for seed in ops.row_seeds(row, 4)]
    empty = torch.zeros(12, LENGTH, dtype=torch.int64)
    sampler = samplers.create("llada-random")
    plain = sample(EXACT_P, sampler, empty, empty == 0, seeds=seeds, law=TokenLaw())
    assert torch.equal(out.tokens.flatten(0, 1), plain.tokens)
    assert float(out.log_normalizer.abs().max()) < 1e-12


@pytest.mark.parametrize(
    ("options", "name"),
    [({"sampler": "llada"}, "LLaDA"), ({"sampler": "remdm-cap"}, "ReMDM"),
     ({"sampler": "euler", "denoiser": NOISY_P}, "Euler")],
)  # fmt: skip
def test_steps_that_are_more_than_draws_are_refused(options: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=f"TwistedTarget: .* of {name}"):
        run(TwistedTarget(rough), 1, 1, steps=2, **options)


def test_a_twist_is_a_function() -> None:
    with pytest.raises(TypeError, match="log_twist is a float: must be a function"):
        TwistedTarget(1.0)  # type: ignore[arg-type]
    assert MASK == S

"""Twisted proposals: exact twists leave nothing to weigh, and inexact ones are corrected."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from dlm_sampling import ops, sample, samplers
from dlm_sampling.guidance import BestOf, Classifier, Stitch
from dlm_sampling.smc import ProductDenoiser, TiltedTarget, TwistedTarget, sample_particles
from dlm_sampling.testing import NoisyEnumerableDenoiser, chi_square, count_states
from dlm_sampling.types import TokenLaw
from tests.guidance.test_best_of import PLACES, REWARD, TILTED, reward, soft_value
from tests.guidance.toys import EXACT_P, EXACT_Q, LENGTH, MASK, NOISY_P, P, S
from tests.samplers import test_uniform_solvers as solvers

MASS = float((P.flatten() * REWARD.exp()).sum())
ROUGH = torch.randn(LENGTH, S + 1, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def linear(canvas: Tensor) -> Tensor:
    """A rough twist, linear in the one-hot canvas [n, L, V]."""
    return (canvas.double() * ROUGH[: canvas.shape[1]]).sum((1, 2))


def rough(canvas: Tensor) -> Tensor:
    return linear(torch.nn.functional.one_hot(canvas, S + 1))


def run(target: Any, groups: int, particles: int, **options: Any) -> Any:
    empty = torch.zeros(groups, options.pop("length", LENGTH), dtype=torch.int64)
    sampler = options.pop("sampler", "llada-random")
    sampler = samplers.create(sampler) if isinstance(sampler, str) else sampler
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


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ancestral", "tau-leaping"])
def test_a_twist_under_uniform_noise_is_corrected(name: str) -> None:
    """The mass of every text is that of the solver's own chain times exp r, by enumeration."""
    sampler: Any = samplers.create(name, noise_removal="sample")
    denoiser = NoisyEnumerableDenoiser(solvers.joint())
    mass = solvers.exact_law(denoiser, sampler, 3) * REWARD[:9].exp()
    place = torch.tensor([3, 1])
    target = TwistedTarget(lambda x: 0.3 * rough(x), lambda x: REWARD[x @ place])
    options: dict[str, Any] = {"denoiser": denoiser, "sampler": sampler, "steps": 3, "length": 2}
    for particles, groups in ((1, 900), (6, 150)):
        guide = Classifier(rough, S, 0.3)
        out = run(target, groups, particles, guidance=guide, law=TokenLaw(1.2), **options)
        total = out.log_normalizer.exp()
        assert abs(float((total.mean() - mass.sum()) / (total.std() / math.sqrt(groups)))) < 3.5
        shares = (out.log_weights + out.log_normalizer.unsqueeze(1)).exp()
        texts = torch.nn.functional.one_hot(out.tokens @ place, 9).double()
        found = (shares.unsqueeze(2) * texts).sum(1)
        z = (found.mean(0) - mass) / (found.std(0) / math.sqrt(groups))
        assert float(z.abs().max()) < 4.0
        assert float(((found.mean(0) - solvers.joint().flatten()).abs()).max()) > 0.1
    alone = run(TwistedTarget(lambda x: torch.zeros(len(x))), 4, 3, **options)
    assert float(alone.log_normalizer.abs().max()) < 1e-9


@pytest.mark.parametrize("name", ["llada-random", "ancestral", "sdar-sequential"])
def test_weights_are_what_the_token_law_changed(name: str) -> None:
    """Of a lone particle: the law of what it wrote over the one it was drawn from."""
    sampler: Any = samplers.create(
        name, **({"noise_removal": "sample"} if name == "ancestral" else {})
    )
    law = TokenLaw(temperature=1.7, top_k=2)
    for denoiser, target in (
        (EXACT_P, TwistedTarget(lambda x: torch.zeros(len(x)))),
        (ProductDenoiser([EXACT_P], [2.0]), TiltedTarget()),
    ):
        out = run(target, 5, 1, denoiser=denoiser, sampler=sampler, law=law, return_trajectory=True)
        wanted = torch.zeros(5).double()
        for event in out.trajectory.events:
            rows = denoiser.logits(event.before).double()[..., :S]
            own = rows.gather(2, event.tokens.clamp(max=S - 1).unsqueeze(2))[..., 0]
            wanted[event.rows] += ((own - event.logprob).where(event.written, 0.0)).sum(1)
        torch.testing.assert_close(out.log_normalizer, wanted, rtol=0, atol=1e-5)


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
     ({"sampler": "theta-trapezoidal", "denoiser": NOISY_P}, "ThetaTrapezoidal")],
)  # fmt: skip
def test_steps_that_are_more_than_draws_are_refused(options: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=f"TwistedTarget: .* of {name} "):
        run(TwistedTarget(rough), 1, 1, steps=2, **options)


def test_what_has_no_law_is_not_weighed() -> None:
    cold, choice = {"law": TokenLaw(temperature=0.0)}, BestOf(rough, 2)
    moves = Classifier(rough, S + 1, 1.0, rate_preserving=False)
    refused: list[tuple[str, dict[str, Any]]] = [
        ("at temperature 0 a token is the argmax", cold),
        ("last step of Ancestral takes the argmax", {"sampler": "ancestral"}),
        ("last step of Euler takes the argmax", {
            "denoiser": NOISY_P, "sampler": samplers.create("euler", noise_removal="argmax")}),
        ("BestOf chooses among candidates or masks", {"guidance": choice}),
        ("Classifier chooses among candidates or masks", {
            "guidance": moves, "sampler": samplers.create("ancestral", noise_removal="sample")}),
    ]  # fmt: skip
    for words, options in refused:
        with pytest.raises(ValueError, match=f"TwistedTarget: .*{words}"):
            run(TwistedTarget(rough), 1, 2, **options)
    with pytest.raises(ValueError, match="guidance=Stitch: asks other models only"):
        run(TwistedTarget(rough), 1, 2, guidance=Stitch(EXACT_Q, 0.5))


def test_a_twist_is_a_function() -> None:
    with pytest.raises(TypeError, match="log_twist is a float: must be a function"):
        TwistedTarget(1.0)  # type: ignore[arg-type]
    assert MASK == S

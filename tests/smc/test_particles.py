"""Particles against enumerated targets, on a joint law of three positions over three tokens."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from dlm_sampling import ops, replay, sample, samplers
from dlm_sampling.smc import (
    ProductDenoiser,
    RewardTarget,
    TiltedTarget,
    TwistedTarget,
    effective_size,
    sample_particles,
    systematic,
)
from dlm_sampling.smc.resampling import multinomial
from dlm_sampling.testing import EnumerableDenoiser
from dlm_sampling.types import TokenLaw

pytestmark = pytest.mark.slow

GENERATOR = torch.Generator().manual_seed(1)
P, Q = (torch.rand(3, 3, 3, generator=GENERATOR).double() ** 2 for _ in range(2))
P, Q = P / P.sum(), Q / Q.sum()
ONE, OTHER = EnumerableDenoiser(P), EnumerableDenoiser(Q)
REWARD = torch.randn(27, generator=GENERATOR).double()
SAMPLER = samplers.create("llada-random")


def place(tokens: Tensor) -> Tensor:
    return tokens @ torch.tensor([9, 3, 1])


def reward(tokens: Tensor) -> Tensor:
    return REWARD[place(tokens)]


def run(denoiser: Any, target: Any, groups: int, particles: int, **options: Any) -> Any:
    tokens, editable = torch.full((groups, 3), 3), torch.ones(groups, 3, dtype=torch.bool)
    sampler = options.pop("sampler", SAMPLER)
    seeds = options.pop("seeds", range(groups))
    return sample_particles(
        denoiser, sampler, tokens, editable, target, particles=particles, seeds=seeds, **options
    )


def distance(out: Any, target: Tensor) -> float:
    """Total variation between the mean weighted law of the particles and a target [27]."""
    weights = out.log_weights.exp().flatten() / len(out.tokens)
    law = torch.zeros(27).double().index_add(0, place(out.tokens).flatten(), weights)
    return float(0.5 * (law - target).abs().sum())


def z_score(out: Any, wanted: float) -> float:
    found = out.log_normalizer.exp()
    return float((found.mean() - wanted) / (found.std() / math.sqrt(len(found))))


PRODUCTS = {
    "guidance": ([ONE, OTHER], [2.0, -1.0], P**2 / Q),
    "power": ([ONE], [3.0], P**3),
    "product": ([ONE, OTHER], [0.7, 0.6], P**0.7 * Q**0.6),
}


@pytest.mark.parametrize("case", PRODUCTS)
def test_correctors_sample_the_product(case: str) -> None:
    """The normaliser is unbiased at K 1 and K 32, and only weights bring the law near."""
    models, powers, table = PRODUCTS[case]
    mass, target = float(table.sum()), (table / table.sum()).flatten()
    denoiser = ProductDenoiser(models, powers)
    alone = run(denoiser, TiltedTarget(), 2000, 1)
    assert abs(z_score(alone, mass)) < 3.5
    many = run(denoiser, TiltedTarget(), 64, 32)
    assert abs(z_score(many, mass)) < 3.5
    assert distance(many, target) < 0.25 * distance(alone, target) or distance(many, target) < 0.04


def test_guidance_without_weights_is_not_the_product_law() -> None:
    """Plain classifier-free guidance misses the product by far, particles approach it with K."""
    table = P**2 / Q
    target, denoiser = (table / table.sum()).flatten(), ProductDenoiser([ONE, OTHER], [2.0, -1.0])
    tokens, editable = torch.full((4096, 3), 3), torch.ones(4096, 3, dtype=torch.bool)
    plain = sample(denoiser, SAMPLER, tokens, editable, seeds=range(4096), law=TokenLaw())
    counts = torch.bincount(place(plain.tokens), minlength=27).double()
    found = [float(0.5 * (counts / 4096 - target).abs().sum())]
    found += [distance(run(denoiser, TiltedTarget(), 4096 // k, k), target) for k in (4, 16, 128)]
    assert found[0] > 0.6 and found[0] > found[1] > found[2] > found[3] < 0.04, found


@pytest.mark.parametrize("potential", ["difference", "max", "add", "reward"])
def test_steering_tilts_by_the_reward(potential: Any) -> None:
    table = P.flatten() * REWARD.exp()
    out = run(ONE, RewardTarget(reward, 1.0, potential), 128, 32)
    assert abs(z_score(out, float(table.sum()))) < 3.5
    plain = 0.5 * float((P.flatten() - table / table.sum()).abs().sum())
    assert plain > 0.3 and distance(out, table / table.sum()) < 0.09
    assert out.nfe.tolist() == [[3] * 32] * 128  # estimates read the passes of the steps


@pytest.mark.parametrize("potential", ["difference", "max", "add", "reward"])
def test_scale_zero_is_the_plain_run(potential: Any) -> None:
    out = run(ONE, RewardTarget(reward, 0.0, potential), 3, 5, threshold=1.0)
    seeds = [seed for row in range(3) for seed in ops.row_seeds(row, 5)]
    tokens, editable = torch.full((15, 3), 3), torch.ones(15, 3, dtype=torch.bool)
    plain = sample(ONE, SAMPLER, tokens, editable, seeds=seeds, law=TokenLaw())
    assert torch.equal(out.tokens.flatten(0, 1), plain.tokens)
    torch.testing.assert_close(out.log_weights, torch.full((3, 5), -math.log(5)).double())
    assert out.log_normalizer.abs().max() < 1e-12


def test_what_is_impossible_has_weight_zero() -> None:
    """A twist of -inf is a constraint: Z is the mass of what is left, and no weight is NaN."""

    def rule(rows: Tensor) -> Tensor:
        return torch.where((rows[:, 0] == rows[:, 1]) & (rows[:, 0] < 3), -math.inf, 0.0)

    wanted = P.clone()
    wanted[torch.arange(3), torch.arange(3)] = 0.0
    out = run(ONE, TwistedTarget(rule), 60, 16)
    assert abs(z_score(out, float(wanted.sum()))) < 3.5
    assert not bool(out.log_weights.isnan().any())
    assert distance(out, (wanted / wanted.sum()).flatten()) < 0.1
    lost = run(ONE, TwistedTarget(rule), 60, 1)
    assert bool(
        (lost.log_normalizer.exp().round() == (lost.tokens[:, 0, 0] != lost.tokens[:, 0, 1])).all()
    )
    with pytest.raises(ValueError, match="reward returned -inf: steering reads estimates"):
        run(ONE, RewardTarget(rule), 1, 8)


def test_the_final_weight_of_a_lone_particle_is_its_reward() -> None:
    for potential in ("difference", "max", "add", "reward"):
        out = run(ONE, RewardTarget(reward, 1.5, potential), 50, 1)
        wanted = 1.5 * reward(out.tokens[:, 0])
        torch.testing.assert_close(out.log_normalizer, wanted, rtol=0, atol=1e-9)


def test_rows_do_not_depend_on_their_batch() -> None:
    target = RewardTarget(reward, 2.0)
    together = run(ONE, target, 4, 6, seeds=[5, 6, 7, 8])
    for row in range(4):
        alone = run(ONE, target, 1, 6, seeds=[5 + row])
        assert torch.equal(alone.tokens[0], together.tokens[row])
        assert torch.equal(alone.ancestors[:, 0], together.ancestors[:, row])
        assert torch.equal(alone.draw()[0], together.draw()[row])
        torch.testing.assert_close(alone.log_normalizer[0], together.log_normalizer[row])


def test_a_particle_keeps_what_its_ancestor_had_written() -> None:
    """Resampled after every step, tokens written first are those of the ancestor's row."""
    left = samplers.create("sdar-sequential")
    out = run(ONE, RewardTarget(reward, 4.0), 8, 8, sampler=left, threshold=1.0)
    assert bool((out.ancestors != torch.arange(8)).any())
    lineage = out.lineage(1)
    for row in range(8):
        for ancestor in set(lineage[row].tolist()):
            first = out.tokens[row, lineage[row] == ancestor, 0]
            assert len(set(first.tolist())) == 1  # siblings agree on the first token


def test_the_path_of_every_particle_can_be_read_back() -> None:
    """Each path begins with masks, adds one token a step, and has the probability of its row."""
    target = RewardTarget(reward, 4.0)
    out = run(ONE, target, 4, 8, threshold=1.0, return_trajectory=True)
    plain = run(ONE, target, 4, 8, threshold=1.0)
    assert torch.equal(out.tokens, plain.tokens) and plain.trajectory is None
    assert bool((out.ancestors != torch.arange(8)).any())
    first, rows = out.lineage(), out.tokens.flatten(0, 1)
    for slot in range(32):
        canvases = [out.trajectory.canvas(slot, step) for step in range(4)]
        assert [int((canvas == 3).sum()) for canvas in canvases] == [3, 2, 1, 0]
        for canvas in canvases:
            assert bool(((canvas == rows[slot]) | (canvas == 3)).all())
        group, k = divmod(slot, 8)
        event = out.trajectory.events[0]
        assert torch.equal(event.tokens[group * 8 + first[group, k]], canvases[1])
    paths = replay(ONE, out.trajectory).logprob.sum(1).double()
    torch.testing.assert_close(paths, P.flatten()[place(rows)].log(), rtol=0, atol=1e-5)


def test_systematic_resampling_keeps_the_mean_and_rounds_the_counts() -> None:
    weights = torch.tensor([0.05, 0.5, 0.0, 0.45]).double()
    uniform = (torch.arange(4000) + 0.5).double() / 4000
    ancestors = systematic(weights.log().expand(4000, -1) + 7.0, uniform)
    counts = torch.nn.functional.one_hot(ancestors, 4).sum(1).double()
    torch.testing.assert_close(counts.mean(0), 4 * weights, rtol=0, atol=1e-3)
    low = (4 * weights).floor()
    assert bool(((counts >= low) & (counts <= low + 1)).all())
    assert float(effective_size(torch.zeros(1, 4).double())) == pytest.approx(4.0)
    drawn = multinomial(weights.log().expand(1, -1), uniform[None])
    shares = torch.bincount(drawn[0], minlength=4).double() / 4000
    torch.testing.assert_close(shares, weights, rtol=0, atol=1e-3)


def test_weights_beyond_the_range_of_a_double_are_no_matter() -> None:
    out = run(ONE, RewardTarget(lambda x: 500.0 * reward(x), 10.0), 2, 4)
    assert bool(out.log_weights.exp().sum(1).sub(1).abs().max() < 1e-9)
    assert bool(out.log_normalizer.isfinite().all())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"particles": 0}, "particles=0: must be at least 1"),
        ({"threshold": 2.0}, "threshold=2.0: must be in"),
        ({"every": 0}, "every=0: must be at least 1"),
        ({"sampler": samplers.create("fast-dllm")}, "FastDLLM sets its own pace"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    options = {"particles": 2, **options}
    with pytest.raises(ValueError, match=message):
        run(ONE, TiltedTarget(), 1, **options)


def test_guidance_hides_the_prompt_from_the_last_model() -> None:
    """Given its first token: p(x | 0)^2 p(x)^-1 over the rest, by enumeration."""
    tokens = torch.tensor([[0, 3, 3]]).expand(64, -1)
    editable = torch.tensor([[False, True, True]]).expand(64, -1)
    hidden = (~editable).repeat_interleave(32, 0)
    denoiser = ProductDenoiser([ONE, ONE], [2.0, -1.0], hidden)
    out = sample_particles(
        denoiser, SAMPLER, tokens, editable, TiltedTarget(), particles=32, seeds=range(64)
    )
    given, free = P[0] / P[0].sum(), P.sum(0)
    table = torch.zeros(3, 3, 3).double()
    table[0] = given**2 / free
    assert abs(z_score(out, float(table.sum()))) < 3.5
    assert distance(out, (table / table.sum()).flatten()) < 0.04


def test_models_that_differ_are_refused() -> None:
    other = EnumerableDenoiser(torch.rand(2, 2).double())
    with pytest.raises(ValueError, match="must have one vocabulary and mask"):
        ProductDenoiser([ONE, other], [1.0, 1.0])
    with pytest.raises(ValueError, match="powers has 1 entries for 2 models"):
        ProductDenoiser([ONE, OTHER], [1.0])
    with pytest.raises(ValueError, match="scale=inf: must be finite"):
        RewardTarget(reward, math.inf)

"""The best of M candidates: its law by enumeration, M 1, the exact soft value, and its passes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dlm_sampling import ops, sample, samplers
from dlm_sampling.guidance import BestOf
from dlm_sampling.testing import chi_square, count_states, tv
from dlm_sampling.types import TokenLaw
from tests.guidance.toys import EXACT_P, LENGTH, MASK, NOISY_P, STATES, P, S

REWARD = torch.randn(S**LENGTH, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
PLACES = torch.tensor([9, 3, 1])


def reward(canvas: Tensor) -> Tensor:
    return REWARD[canvas @ PLACES]


def soft_value(canvas: Tensor) -> Tensor:
    """log E[exp r | z] under P, exact."""
    fits = ((canvas.unsqueeze(1) == MASK) | (canvas.unsqueeze(1) == STATES)).all(2) * P.flatten()
    return ((fits * REWARD.exp()).sum(1) / fits.sum(1)).log()


TILTED = P.flatten() * REWARD.exp() / (P.flatten() * REWARD.exp()).sum()


def run(guide: BestOf | None, count: int, name: str = "llada-random", **options: Any) -> Any:
    empty = torch.zeros(count, LENGTH, dtype=torch.int64)
    return sample(
        options.pop("denoiser", EXACT_P), samplers.create(name), empty, empty == 0,
        seeds=range(count), law=TokenLaw(), guidance=guide, **options,
    )  # fmt: skip


@pytest.mark.slow
def test_the_exact_soft_value_leads_to_the_tilted_law_as_m_grows() -> None:
    """At M 1 it is the base law, and the distance to P e^r / Z falls with M, down to the noise."""
    distances = []
    for m in (1, 3, 16):
        counts = count_states(run(BestOf(soft_value, m, 1.0, "MC"), 1500).tokens, S)
        distances.append(tv(counts.double() / counts.sum(), TILTED))
    assert distances[0] > distances[1] > distances[2]
    assert distances[2] < 0.15


def test_rows_are_filled_in_blocks_to_come_too() -> None:
    def value(rows: Tensor) -> Tensor:
        assert not bool((rows == MASK).any())
        return rows.double().sum(1)

    out = run(BestOf(value, 2), 3, block_length=1)
    assert out.nfe.tolist() == [LENGTH * 3 - 2] * 3  # the last candidates have nothing to fill
    with pytest.raises(ValueError, match="block_length=1: BestOf reads predictions of blocks to"):
        run(BestOf(value, 2), 3, block_length=1, causal_blocks=True)


def test_one_step_has_the_law_of_the_best_candidate() -> None:
    """One position left, temperature 0: P(best = v) = F(v)^M - F(v-)^M in the order of values."""
    fixed = torch.tensor([0, 1, MASK])
    p = EXACT_P.probs(fixed[None])[0, 2, :S]
    values = REWARD[(fixed[:2] @ PLACES[:2]) + torch.arange(S)]
    order = values.argsort()
    upto = p[order].cumsum(0)
    law = torch.zeros(S, dtype=torch.float64)
    law[order] = upto**4 - torch.cat((torch.zeros(1).double(), upto[:-1])) ** 4
    canvas = fixed.expand(4000, -1)
    out = sample(
        EXACT_P, samplers.create("llada-random"), canvas, canvas == MASK, seeds=range(4000),
        law=TokenLaw(), guidance=BestOf(reward, 4, kind="MC"),
    )  # fmt: skip
    assert chi_square(torch.bincount(out.tokens[:, 2], minlength=S), law).p > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "denoiser"),
    [("ancestral", EXACT_P), ("remdm-cap", EXACT_P), ("glauber", EXACT_P), ("euler", NOISY_P)],
)
def test_candidates_share_their_pass_and_m_1_is_the_plain_run(name: str, denoiser: Any) -> None:
    given: dict[str, Any] = {"denoiser": denoiser, "steps": 4}
    plain, one = run(None, 20, name, **given), run(BestOf(reward, 1), 20, name, **given)
    assert torch.equal(plain.tokens, one.tokens)
    assert torch.equal(plain.nfe, one.nfe)
    many = run(BestOf(lambda x: -x.sum(1), 5, kind="MC"), 20, name, every_step=True, **given)
    base = run(None, 20, name, every_step=True, **given)
    assert torch.equal(many.nfe, base.nfe)
    guide = BestOf(lambda x: -x.sum(1), 5, kind="MC")
    better = run(guide, 20, name, **given)
    assert better.tokens.sum() < plain.tokens.sum()
    alone = sample(
        denoiser, samplers.create(name), torch.zeros(1, LENGTH).long(),
        torch.ones(1, LENGTH).bool(), seeds=[3], law=TokenLaw(), steps=4,
        guidance=guide,
    )  # fmt: skip
    assert torch.equal(alone.tokens[0], better.tokens[3])


def test_filled_canvases_cost_a_pass_per_candidate() -> None:
    out = run(BestOf(reward, 3), 6)  # the last step leaves nothing to fill
    assert out.nfe.unique().tolist() == [LENGTH + 3 * (LENGTH - 1)]
    seen: list[int] = []

    def valued(canvas: Tensor) -> Tensor:
        seen.append(int(canvas.max()))
        return reward(canvas)

    run(BestOf(valued, 3), 6)
    assert max(seen) < S  # no mask is valued


def test_branches_of_random_numbers_are_independent_and_0_is_the_run() -> None:
    rng = ops.Rng.from_seeds(range(4000), device=torch.device("cpu"))
    like = torch.zeros(4000)
    assert torch.equal(rng.branch(0).uniform(4, like), rng.uniform(4, like))
    u, v = rng.uniform(4, like), rng.branch(1).uniform(4, like)
    assert abs(float(torch.corrcoef(torch.stack((u, v)))[0, 1])) < 0.06
    assert len({float(rng.branch(m).uniform(4, like)[0]) for m in range(12)}) == 12


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"value": 1}, "value is an int: must be a function"),
        ({"m": 0}, "m=0: must be at least 1"),
        ({"temperature": -1.0}, "temperature=-1.0: must be finite"),
        ({"kind": "MP"}, "kind='MP': must be one of MC, PM"),
    ],
)
def test_what_is_no_choice_is_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        BestOf(**{"value": reward, **options})

"""Candidates as particles: the tokens of the best of M, their path, and an unbiased normaliser."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from dlm_sampling import replay, sample, samplers
from dlm_sampling.guidance import BestOf
from dlm_sampling.smc import sample_candidates
from dlm_sampling.types import TokenLaw
from tests.guidance.test_best_of import REWARD, reward, soft_value
from tests.guidance.toys import EXACT_P, LENGTH, MASK, NOISY_P, P, Remembering

CHOICES = {
    "MC 0": BestOf(soft_value, 3, 0.0, "MC"),
    "MC 1": BestOf(soft_value, 4, 1.0, "MC"),
    "PM 0": BestOf(reward, 3),
    "PM 2": BestOf(reward, 2, 2.0),
    "one": BestOf(reward, 1),
}


def both(choice: BestOf, name: str, denoiser: Any, **options: Any) -> tuple[Any, Any]:
    tokens = torch.tensor([[MASK, 1, MASK], [MASK, MASK, MASK]]).repeat(3, 1)
    editable = tokens == MASK
    options = {"seeds": range(6), "law": TokenLaw(), **options}
    sampler, canvas = samplers.create(name), tokens % MASK
    guided = sample(denoiser, sampler, canvas, editable, guidance=choice, **options)
    return sample_candidates(denoiser, sampler, canvas, editable, choice, **options), guided


@pytest.mark.parametrize(
    ("name", "case"), [*(("llada-random", case) for case in CHOICES), ("remdm-cap", "PM 2")]
)
def test_the_tokens_are_those_of_the_best_of_m(case: str, name: str) -> None:
    choice = CHOICES[case]
    out, guided = both(choice, name, EXACT_P, steps=3)
    assert torch.equal(out.tokens, guided.tokens.unsqueeze(1).expand(-1, choice.m, -1))
    if choice.m == 1:
        plain = both(choice, name, EXACT_P, steps=3)[1]
        assert torch.equal(out.tokens[:, 0], plain.tokens)


def test_carried_states_follow_the_chosen_candidate() -> None:
    """Replayed with states of its own, a path has the probabilities it was drawn with."""
    denoiser = Remembering(P)
    tokens = torch.full((4, LENGTH), MASK)
    for kind in ("MC", "PM"):
        out = sample_candidates(
            denoiser, samplers.create("llada-random"), tokens, tokens == MASK,
            BestOf(lambda x: x.double().sum(1), 3, 0.5, kind), seeds=range(4),
            return_trajectory=True,
        )  # fmt: skip
        assert bool((out.ancestors[:2] != 0).any())
        drawn = torch.zeros(12, LENGTH, dtype=torch.float64)
        for event in out.trajectory.paths().events:
            drawn[event.rows] += event.logprob * event.written
        scored = replay(denoiser, out.trajectory).logprob
        torch.testing.assert_close(scored, drawn, rtol=0, atol=1e-5)


def test_uniform_noise_has_the_same_tokens_too() -> None:
    out, guided = both(BestOf(reward, 3, 1.0, "MC"), "euler", NOISY_P, steps=4)
    assert torch.equal(out.tokens[:, 0], guided.tokens)


@pytest.mark.slow
def test_the_normaliser_is_unbiased() -> None:
    """E[exp r] is the mean of the estimates, and more candidates make them vary less."""
    count, mass = 300, float((P.flatten() * REWARD.exp()).sum())
    empty = torch.zeros(count, LENGTH, dtype=torch.int64)

    def estimates(value: Any, m: int) -> torch.Tensor:
        out = sample_candidates(
            EXACT_P, samplers.create("llada-random"), empty, empty == 0,
            BestOf(value, m, 1.0, "MC"), seeds=range(count),
        )  # fmt: skip
        return out.log_normalizer.exp()

    for value in (soft_value, lambda x: soft_value(x) * (x < MASK).all(1)):
        found = estimates(value, 4)
        z = (found.mean() - mass) / (found.std() / math.sqrt(count))
        assert abs(float(z)) < 3.5
    assert estimates(soft_value, 16).std() < 0.5 * estimates(soft_value, 2).std()


def test_the_candidates_that_were_left_stay_in_the_trajectory() -> None:
    choice = BestOf(lambda canvas: -canvas.sum(1), 4, kind="MC")
    out, _ = both(choice, "llada-random", EXACT_P, return_trajectory=True)
    first = out.trajectory.events[0]
    values = choice.value(first.tokens).view(6, 4)
    assert len(values.unique(dim=1)[0]) > 1
    assert torch.equal(first.parents.view(6, 4)[:, 0] % 4, values.argmax(1))
    assert torch.equal(out.ancestors[0], values.argmax(1, keepdim=True).expand(-1, 4))
    assert bool(out.log_normalizer.isnan().all())  # the temperature is 0

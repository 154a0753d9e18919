"""Tweedie's step: its formula, the ancestral step, and Euler's under the log-linear schedule."""

from __future__ import annotations

import pytest
import torch

from dlm_sampling.processes import Absorbing, conversions, jumps
from dlm_sampling.processes.tweedie import tweedie_absorbing, tweedie_uniform
from dlm_sampling.schedules import (
    LogLinear,
    masking_rate,
    reverse_rate,
)
from dlm_sampling.testing import oracles
from tests.processes.enumerated import given_noisy, ratios, uniform_noise
from tests.processes.random_laws import MASK, SIZE, laws, masked, number, same


@pytest.mark.parametrize("eps", [0.0, 1e-3, 0.2])
def test_euler_is_tweedie_is_ancestral_under_log_linear_masking(eps: float) -> None:
    p, x = masked(1)
    process, schedule = Absorbing(MASK), LogLinear(eps)
    for t, s in ((0.9, 0.7), (0.5, 0.1), (0.03, 0.02), (0.4, 0.0)):
        t, s = number(t), number(s)
        a, b = schedule.alpha(t), schedule.alpha(s)
        ancestral = process.reverse(p, x, a, b)
        rates = process.reverse_rates(p, x, reverse_rate(schedule, t))
        score = conversions.score_from_masked_law(p, x, a, MASK)
        from_score = oracles.absorbing_score_rates(process, score, x, masking_rate(schedule, t))
        same(from_score, rates)
        same(jumps.euler_law(rates, x, t - s), ancestral)
        same(tweedie_absorbing(score, x, a, b, MASK), ancestral)


@pytest.mark.parametrize("levels", [(0.1, 0.3), (0.4, 0.95), (0.3, 1.0)])
def test_scores_of_a_law_give_its_reverse_step_under_uniform_noise(
    levels: tuple[float, float],
) -> None:
    loo, x = laws(16)
    pi = uniform_noise(SIZE)
    found = tweedie_uniform(ratios(loo, x, pi, levels[0]), x, *map(number, levels))
    same(found, given_noisy(loo, x, pi, *levels).sum(-2))


def test_scores_of_no_law_are_taken_as_they_are() -> None:
    """The formula of theorem 4.2 written out, on ratios that belong to no law."""
    score, x = laws(17)
    score = 3.0 * score
    a, s = 0.5, 0.6
    e = s / a  # e^dsigma
    for n, i in torch.cartesian_prod(torch.arange(len(x)), torch.arange(x.shape[1])).tolist():
        row, here = score[n, i].tolist(), int(x[n, i])
        staggered = [e * ratio - (e - 1) / SIZE * sum(row) for ratio in row]
        step = [(y == here) / e + (1 - 1 / e) / SIZE for y in range(SIZE)]
        weights = [max(before * k, 0.0) for before, k in zip(staggered, step, strict=True)]
        law = torch.tensor(weights, dtype=torch.float64) / sum(weights)
        torch.testing.assert_close(
            tweedie_uniform(score, x, number(a), number(s))[n, i], law, atol=1e-12, rtol=0
        )
        weights = [row[y] * e * (1 - 1 / e) for y in range(SIZE)]
        weights[MASK] = max(e * row[MASK] + (1 - e) * sum(row), 0)
        law = torch.tensor(weights, dtype=torch.float64) / sum(weights)
        law = law if here == MASK else torch.eye(SIZE).double()[here]
        torch.testing.assert_close(
            tweedie_absorbing(score, x, number(a), number(s), MASK)[n, i], law, atol=1e-12, rtol=0
        )

"""Posterior, leave-one-out law and score: each gives the others, and none stands for another."""

from __future__ import annotations

import pytest
import torch

from dlm_sampling.processes import Uniform, conversions
from dlm_sampling.processes.tweedie import tweedie_uniform
from dlm_sampling.types import PredictionKind
from tests.processes.random_laws import MASK, laws, masked, number, same

KINDS: tuple[PredictionKind, ...] = ("posterior", "leave_one_out", "log_score")


@pytest.mark.parametrize("source", KINDS)
@pytest.mark.parametrize("target", KINDS)
def test_conversions_go_round(source: PredictionKind, target: PredictionKind) -> None:
    loo, x = laws(6)
    alpha = torch.rand(x.shape, generator=torch.Generator().manual_seed(6)).double() * 0.8 + 0.1
    start = conversions.convert_uniform(loo, x, alpha, "leave_one_out", source)
    there = conversions.convert_uniform(start, x, alpha, source, target)
    same(conversions.convert_uniform(there, x, alpha, target, source), start)


@pytest.mark.parametrize("alphas", [(0.1, 0.3), (0.4, 0.95), (0.3, 1.0), (0.0, 0.2)])
def test_plug_in_is_mixture_is_tweedie(alphas: tuple[float, float]) -> None:
    loo, x = laws(4)
    a, b = map(number, alphas)
    plug = Uniform().reverse(loo, x, a, b)
    post = conversions.convert_uniform(loo, x, a, "leave_one_out", "posterior")
    same(plug, Uniform().mixture(post, x, a, b))
    if alphas[0] > 0:
        score = conversions.convert_uniform(loo, x, a, "leave_one_out", "log_score")
        same(plug, tweedie_uniform(score, x, a, b))
    if alphas[1] == 1.0:
        same(plug, post)


def test_wrong_pairings_are_wrong() -> None:
    loo, x = laws(5)
    a, b = number(0.4), number(0.8)
    post = conversions.convert_uniform(loo, x, a, "leave_one_out", "posterior")
    plug = Uniform().reverse(loo, x, a, b)
    assert float((plug - Uniform().reverse(post, x, a, b)).abs().max()) > 0.05
    assert float((plug - Uniform().mixture(loo, x, a, b)).abs().max()) > 0.05


def test_a_score_of_masks_keeps_the_law_and_drops_its_scale() -> None:
    p, x = masked(8)
    score = conversions.score_from_masked_law(p, x, number(0.3), MASK)
    at_masks = (x == MASK).unsqueeze(-1)
    same(conversions.carried_over(7.0 * score, x, MASK) * at_masks, p * at_masks)

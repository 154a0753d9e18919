"""Planned denoising: who is noise, what replaces it, and how much of a canvas is clean."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dlm_sampling import ops
from dlm_sampling.processes import conversions
from dlm_sampling.processes.planned import (
    UniformTokens,
    clean_probability,
    level_of,
    noise_from_clean,
    planned_rates,
)
from dlm_sampling.types import PredictionKind
from tests.processes.enumerated import others
from tests.processes.random_laws import SIZE, laws, number, same

KINDS: tuple[PredictionKind, ...] = ("posterior", "leave_one_out", "log_score")


def test_noise_probability_splits_the_posterior() -> None:
    loo, x = laws(7)
    alpha = number(0.35)
    post = conversions.posterior_from_leave_one_out(loo, x, alpha)
    rho = noise_from_clean(loo.gather(-1, x.unsqueeze(-1)), alpha, SIZE)
    here = torch.nn.functional.one_hot(x, SIZE).double()
    same(post, rho * loo + (1 - rho) * here)


def test_noise_probability_is_bayes_rule() -> None:
    """A token is noise with weight (1 - alpha) / S, and clean with weight alpha loo(x)."""
    clean, alpha = torch.tensor([0.0, 0.25, 1.0]).double(), torch.tensor([0.3, 0.6, 0.0]).double()
    wanted = [(1 - a) / 4 / (a * c + (1 - a) / 4) for c, a in zip(clean, alpha, strict=True)]
    same(noise_from_clean(clean, alpha, 4), torch.stack(wanted))


@pytest.mark.parametrize("kind", KINDS)
def test_the_law_without_a_token_is_read_off_the_output_at_it(kind: PredictionKind) -> None:
    loo, x = laws(8)
    alpha = torch.tensor([[0.1], [0.3], [0.5], [0.7], [0.9], [0.99]]).double()
    values = conversions.convert_uniform(loo, x, alpha, "leave_one_out", kind)
    prob = (values / values.sum(-1, keepdim=True)).gather(-1, x.unsqueeze(-1)).squeeze(-1)
    wanted = loo.gather(-1, x.unsqueeze(-1)).squeeze(-1)
    same(clean_probability(prob, alpha, SIZE, kind), wanted)


def test_ratios_that_say_nothing_or_too_much() -> None:
    """A probability below b is 0, above the largest possible it is 1; at alpha 0 it is 1 / S."""
    prob, alpha = torch.tensor([0.05, 0.99, 0.3]).double(), torch.tensor([0.6, 0.6, 0.0]).double()
    same(clean_probability(prob, alpha, 4, "log_score"), torch.tensor([0.0, 1.0, 0.25]).double())


def test_planned_rates_are_the_share_of_noise_times_the_law() -> None:
    p, x = laws(9)
    rho, c = torch.rand(x.shape, generator=torch.Generator().manual_seed(1)), torch.tensor(1.7)
    wanted = others(1.7 * rho.double().unsqueeze(-1) * p, x)
    torch.testing.assert_close(planned_rates(p, rho, x, c), wanted, atol=1e-6, rtol=0)


@pytest.mark.parametrize("mask", [0, 2, 5])
def test_the_prior_leaves_out_the_mask(mask: int, monkeypatch: pytest.MonkeyPatch) -> None:
    u = torch.tensor([[0.0, 0.19, 0.2, 0.39, 0.4, 0.59, 0.6, 0.79, 0.8, 1.0]]).double()

    def uniform(self: ops.Rng, stream: int, like: Tensor, sub: int = 0) -> Tensor:
        assert stream == ops.Stream.INITIAL
        return u.view(like.shape)

    monkeypatch.setattr(ops.Rng, "uniform", uniform)
    rng = ops.Rng.from_seeds([0])
    found = UniformTokens(mask).prior(torch.zeros(1, 10, dtype=torch.int64), rng, 6)
    tokens = [token for token in range(6) if token != mask]
    assert found.tolist() == [[token for token in tokens for _ in (0, 1)]]


@pytest.mark.parametrize("iterations", [1, 2, 3])
def test_the_level_follows_its_iteration(iterations: int) -> None:
    clean = torch.tensor([[0.9, 0.5, 0.1, 0.7], [0.2, 0.3, 0.8, 1.0]], dtype=torch.float64)
    where = torch.tensor([[True, True, True, False], [True, True, True, True]])
    start = [0.0, 0.6]
    wanted: list[float] = []
    for row, counted, alpha in zip(clean.tolist(), where.tolist(), start, strict=True):
        seen = [value for value, here in zip(row, counted, strict=True) if here]
        for _ in range(iterations):
            b = (1 - alpha) / 5
            share = sum(1 - b / (alpha * value + b) for value in seen)
            alpha = (alpha + (1 + share) / (len(seen) + 2)) / 2
        wanted.append(alpha)
    found = level_of(clean, where, torch.tensor(start, dtype=torch.float64), 5, iterations)
    same(found, torch.tensor(wanted, dtype=torch.float64))
    if iterations == 3:
        same(level_of(clean, where, torch.tensor(start, dtype=torch.float64), 5), found)

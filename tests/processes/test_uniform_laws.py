"""Uniform noise: every law of it by enumeration of clean, earlier and current token."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dlm_sampling import ops
from dlm_sampling.processes import Uniform
from tests.processes.enumerated import given_noisy, kernel, others, ratios, uniform_noise
from tests.processes.random_laws import SIZE, laws, number, same

NOISE, PI = Uniform(), uniform_noise(SIZE)
LEVELS = [(0.1, 0.3), (0.4, 0.95), (0.3, 1.0), (0.5, 0.5)]


@pytest.mark.parametrize("levels", LEVELS)
def test_the_step_is_bayes_rule_from_either_law(levels: tuple[float, float]) -> None:
    loo, x = laws(21)
    joint, (a, s) = given_noisy(loo, x, PI, *levels), map(number, levels)
    same(NOISE.reverse(loo, x, a, s), joint.sum(-2))
    same(NOISE.mixture(joint.sum(-1), x, a, s), joint.sum(-2))
    same(NOISE.convert(loo, x, a, "leave_one_out", "posterior"), joint.sum(-1))


def test_levels_may_differ_by_row_and_position() -> None:
    loo, x = laws(22)
    a = torch.rand(x.shape, generator=torch.Generator().manual_seed(2)).double() * 0.5 + 0.1
    s = (1 + a[:, :1]) / 2
    for n in range(len(x)):
        for i in range(x.shape[1]):
            where = loo[n, i], x[n, i], a[n, i], s[n, 0].clamp(min=float(a[n, i]))
            same(NOISE.reverse(*where), NOISE.reverse(loo, x, a, s.maximum(a))[n, i])
            joint = given_noisy(where[0], where[1], PI, float(where[2]), float(where[3]))
            same(NOISE.reverse(*where), joint.sum(-2))
            same(NOISE.forward(loo, a)[n, i], loo[n, i] @ kernel(float(a[n, i]), PI))


def test_without_noise_a_token_stays_where_the_law_allows_it() -> None:
    loo = torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0]]).double()
    x, one = torch.tensor([1, 2]), number(1.0)
    same(NOISE.reverse(loo, x, one, one), torch.tensor([[0.0, 1.0, 0.0], [0.5, 0.5, 0.0]]).double())


def test_forward_and_noise_are_the_kernel() -> None:
    law, _ = laws(23)
    for alpha in (0.0, 0.3, 1.0):
        same(NOISE.forward(law, number(alpha)), law @ kernel(alpha, PI))
    same(NOISE.noise(law), PI)
    assert NOISE.clean_law(law, torch.zeros(law.shape[:-1], dtype=torch.int64)) is law
    assert NOISE.mask_token_id is None


def test_rates_are_the_flux_into_other_tokens() -> None:
    """Backwards beta / S p(y) / p(x), forwards beta / S."""
    loo, x = laws(24)
    alpha, slope = 0.4, 0.7
    score = ratios(loo, x, PI, alpha)
    beta = slope / alpha
    same(NOISE.rates(score, x, number(alpha), number(slope)), others(beta / SIZE * score, x))
    same(NOISE.reverse_rates(score, x, number(beta)), others(beta / SIZE * score, x))
    even = torch.full_like(loo, beta / SIZE)
    same(NOISE.noising_rates(x, number(alpha), number(slope), loo), others(even, x))
    same(NOISE.forward_rates(x, number(beta), loo), others(even, x))
    pure = NOISE.rates(torch.ones_like(loo), x, number(0.0), number(slope))
    assert bool(pure.isfinite().all())


def test_the_clock_brings_noise_at_rate_1() -> None:
    alpha, wait = torch.tensor([0.1, 0.4, 0.9]).double(), torch.tensor([0.5, 0.3, 0.05]).double()
    after = NOISE.level_after(alpha, wait)
    same(torch.log(after / alpha), wait)
    assert float(NOISE.level_after(number(0.9), number(1.0))) == 1.0
    step = number(1e-7)
    slope = (NOISE.level_after(alpha, step) - alpha) / step
    torch.testing.assert_close(NOISE.unit_slope(alpha), slope, atol=1e-6, rtol=0)


def test_the_prior_is_even_and_stays_in_the_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    u = torch.tensor([[0.0, 0.24, 0.25, 0.49, 0.5, 0.74, 0.75, 1.0]]).double()

    def uniform(self: ops.Rng, stream: int, like: Tensor, sub: int = 0) -> Tensor:
        assert stream == ops.Stream.INITIAL
        return u.view(like.shape)

    monkeypatch.setattr(ops.Rng, "uniform", uniform)
    like = torch.zeros(1, 8, dtype=torch.int64)
    assert NOISE.prior(like, ops.Rng.from_seeds([0]), 4).tolist() == [[0, 0, 1, 1, 2, 2, 3, 3]]

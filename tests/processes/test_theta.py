"""Rules of two stages: one leap where both stages have the same rates."""

from __future__ import annotations

import pytest
import torch

from dlm_sampling.processes import Absorbing
from dlm_sampling.processes.theta import (
    rk2_rates,
    rk2_weights,
    trapezoidal_rates,
    trapezoidal_weights,
)
from tests.processes.random_laws import MASK, masked, number, same


def test_theta_rules_with_equal_rates_are_one_leap() -> None:
    p, x = masked(14)
    rates = Absorbing(MASK).reverse_rates(p, x, number(1.0))
    for theta in (0.25, 0.5, 0.75):
        same(trapezoidal_rates(rates, rates, theta), rates)
        same(rk2_rates(rates, rates, theta), rates)
        assert sum(rk2_weights(theta)) == pytest.approx(1.0)


@pytest.mark.parametrize("theta", [0.2, 0.5, 0.8])
def test_the_weights_are_those_of_the_paper(theta: float) -> None:
    a1 = 1 / (2 * theta * (1 - theta))
    a2 = ((1 - theta) ** 2 + theta**2) / (2 * theta * (1 - theta))
    assert trapezoidal_weights(theta) == pytest.approx((a1, a2), rel=1e-14)
    assert a1 - a2 == pytest.approx(1.0, rel=1e-14)
    half = 1 / (2 * theta)
    assert rk2_weights(theta) == pytest.approx((1 - half, half), rel=1e-14)


def test_rates_combine_both_stages_and_are_never_negative() -> None:
    """At theta 1/2: 2 R* - R_t for the trapezoidal rule, R* for RK-2; the latter at 1/4 as well."""
    first = torch.tensor([[0.0, 1.0, 3.0, 0.5]], dtype=torch.float64)
    star = torch.tensor([[0.5, 0.0, 2.0, 1.0]], dtype=torch.float64)
    assert trapezoidal_rates(first, star, 0.5).tolist() == [[1.0, 0.0, 1.0, 1.5]]
    dropped = trapezoidal_rates(first, star, 0.5, indicator=True)
    assert dropped.tolist() == [[0.0, 0.0, 1.0, 1.5]]
    assert rk2_rates(first, star, 0.5).tolist() == [[0.5, 0.0, 2.0, 1.0]]
    assert rk2_rates(first, star, 0.25).tolist() == [[1.0, 0.0, 1.0, 1.5]]
    assert rk2_rates(first, star, 1.0).tolist() == [[0.25, 0.5, 2.5, 0.75]]


@pytest.mark.parametrize("theta", [0.0, 1.0, float("nan")])
def test_theta_is_checked(theta: float) -> None:
    with pytest.raises(ValueError, match="theta"):
        trapezoidal_rates(torch.ones(2), torch.ones(2), theta)


@pytest.mark.parametrize("theta", [0.0, -0.5, 1.001, float("nan")])
def test_theta_of_rk2_may_be_1(theta: float) -> None:
    with pytest.raises(ValueError, match="theta"):
        rk2_weights(theta)

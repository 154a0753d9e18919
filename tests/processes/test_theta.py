"""Rules of two stages: one leap where both stages have the same rates."""

from __future__ import annotations

import pytest
import torch

from dlm_sampling.processes import Absorbing
from dlm_sampling.processes.theta import rk2_rates, rk2_weights, trapezoidal_rates
from tests.processes.random_laws import MASK, masked, number, same


def test_theta_rules_with_equal_rates_are_one_leap() -> None:
    p, x = masked(14)
    rates = Absorbing(MASK).reverse_rates(p, x, number(1.0))
    for theta in (0.25, 0.5, 0.75):
        same(trapezoidal_rates(rates, rates, theta), rates)
        same(rk2_rates(rates, rates, theta), rates)
        assert sum(rk2_weights(theta)) == pytest.approx(1.0)


@pytest.mark.parametrize("theta", [0.0, 1.0, float("nan")])
def test_theta_is_checked(theta: float) -> None:
    with pytest.raises(ValueError, match="theta"):
        trapezoidal_rates(torch.ones(2), torch.ones(2), theta)

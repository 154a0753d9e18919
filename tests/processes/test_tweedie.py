"""Tweedie's step: the ancestral one, and Euler's under the log-linear schedule."""

from __future__ import annotations

import pytest

from dlm_sampling.processes import Absorbing, conversions, jumps
from dlm_sampling.processes.tweedie import tweedie_absorbing
from dlm_sampling.schedules import (
    LogLinear,
    masking_rate,
    reverse_rate,
)
from dlm_sampling.testing import oracles
from tests.processes.random_laws import MASK, masked, number, same


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

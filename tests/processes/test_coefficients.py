"""Learned coefficients: as a factor of the rates, and as a power of the ratios."""

from __future__ import annotations

import torch

from dlm_sampling.processes.coefficients import APPLY


def test_a_coefficient_scales_rates_and_is_the_power_of_ratios() -> None:
    values = torch.tensor([[0.0, 0.5, 2.0], [0.0, 4.0, 1.0]], dtype=torch.float64)
    phi = torch.tensor([[2.0], [0.5]], dtype=torch.float64)
    assert APPLY["rate"](values, phi).tolist() == [[0.0, 1.0, 4.0], [0.0, 2.0, 0.5]]
    assert APPLY["log_score"](values, phi).tolist() == [[0.0, 0.25, 4.0], [0.0, 2.0, 1.0]]


def test_a_coefficient_of_0_keeps_what_cannot_be_written() -> None:
    """0 ** 0 is 1, which would give a token without probability the ratio 1."""
    values, zero = torch.tensor([0.0, 3.0]), torch.zeros(1)
    assert APPLY["rate"](values, zero).tolist() == [0.0, 0.0]
    assert APPLY["log_score"](values, zero).tolist() == [0.0, 1.0]

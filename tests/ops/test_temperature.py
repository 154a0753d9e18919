"""Temperatures that numbers are divided by: never zero, with an inverse that is finite."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from dlm_sampling import ops
from dlm_sampling.ops.temperature import (
    LOG2E,
    MODEL_LAW,
    TemperedLaw,
    inverse_temperature,
    positive,
)
from dlm_sampling.types import TokenLaw

ZERO = torch.zeros(2, dtype=torch.int64)


def test_zero_counts_as_one_and_tiny_ones_have_a_finite_inverse_in_float32() -> None:
    given = [0.0, 0.25, 1.0, 1e-40, 3.0]
    wanted = [1.0, 0.25, 1.0, 1e-30, 3.0]
    assert [positive(value) for value in given] == wanted
    found = positive(torch.tensor(given, dtype=torch.float64))
    assert isinstance(found, torch.Tensor) and found.tolist() == wanted
    inverse = inverse_temperature(found, torch.float32)
    assert isinstance(inverse, torch.Tensor) and bool(inverse.isfinite().all())


def test_the_inverse_of_one_number_and_of_one_per_row() -> None:
    assert inverse_temperature(0.5, torch.float32, times=3.0) == 6.0
    rows = inverse_temperature(torch.tensor([0.5, 4.0]), torch.float32, times=3.0)
    assert isinstance(rows, torch.Tensor)
    assert rows.tolist() == [[6.0], [0.75]]
    assert rows.dtype == torch.float32
    assert pytest.approx(math.exp(1.7), rel=1e-15) == 2.0 ** (LOG2E * 1.7)


def test_only_temperature_one_without_filters_is_known_to_be_the_model_s_law() -> None:
    """A tensor of ones is that law too, but to know it one would wait for the device."""
    assert MODEL_LAW.is_model
    assert not TemperedLaw(None, 0.5).is_model
    assert not TemperedLaw(TokenLaw(top_k=2), 1.0).is_model
    assert not TemperedLaw(None, torch.ones(2)).is_model


def test_a_bad_value_is_named_unless_values_may_not_be_looked_at() -> None:
    bad = torch.tensor([1.0, -2.0])
    with pytest.raises(ValueError, match=r"temperatures\[1\]=-2.0: must be finite and >= 0"):
        positive(bad)
    assert isinstance(positive(bad, check=False), torch.Tensor)


def test_a_wrong_temperature_is_refused() -> None:
    source = torch.zeros(2, 5, dtype=torch.float64)
    for bad in (-1.0, float("nan"), float("inf")):
        temperatures = torch.tensor([1.0, bad])
        with pytest.raises(ValueError, match=r"temperatures\[1\]"):
            ops.log_probs(source, temperatures=temperatures)
        with pytest.raises(ValueError, match=r"temperatures\[1\]"):
            ops.draw(source, keys=ZERO, positions=ZERO, steps=ZERO, temperatures=temperatures)
    with pytest.raises(ValueError, match=r"temperatures has shape \(3,\): must be \(2,\)"):
        ops.log_probs(source, temperatures=torch.ones(3))


@pytest.mark.parametrize(
    "rule",
    [{"typical_p": 0.9}, {"eta_cutoff": 0.1}, {"top_n_sigma": 9.0}, {"top_p": 0.99}],
    ids=str,
)
def test_a_vast_temperature_makes_all_allowed_tokens_alike(rule: dict[str, Any]) -> None:
    """An inverse of 0 times the -inf of a suppressed token would be NaN."""
    logits = torch.arange(10.0).expand(1, -1)
    law = TokenLaw(1e300, suppressed=(3,), **rule)
    found = ops.draw(logits, keys=ZERO[:1], positions=ZERO[:1], steps=ZERO[:1], law=law)
    assert int(found.token[0]) != 3
    assert float(found.logprob[0]) == pytest.approx(-math.log(9), abs=0.25)

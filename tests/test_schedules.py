"""Noise schedules: their ends, their slope, their inverse, and the rates that follow from them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dlm_sampling.schedules import (
    LINEAR,
    Cosine,
    Exponential,
    Geometric,
    HalfCosine,
    LogLinear,
    Polynomial,
    Schedule,
    grid_time,
    hazard,
    masking_rate,
    reverse_rate,
    time_after_hazard,
)

SCHEDULES: list[Schedule] = [
    LogLinear(0.0),
    LogLinear(0.01),
    Cosine(),
    Cosine(power=2),
    HalfCosine(),
    HalfCosine(1e-3),
    Geometric(),
    Polynomial(2.0),
    Exponential(4.0),
]
on_each = pytest.mark.parametrize("schedule", SCHEDULES, ids=str)


def same(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-12)


def times() -> Tensor:
    return torch.linspace(0.05, 0.95, 19, dtype=torch.float64)


@pytest.mark.parametrize(
    ("schedule", "clean", "noise"),
    [
        (LINEAR, 1.0, 0.0),
        (LogLinear(0.01), 1.0, 0.01),
        (Cosine(0.01), 1.0, 0.01),
        (Cosine(0.01, power=2), 1.0, 0.01),
        (HalfCosine(), 1.0, 0.0),
        (Polynomial(3.0), 1.0, 0.0),
        (Exponential(2.0), 1.0, 0.1353352832366127),
        (Geometric(0.5, 2.0), 0.6065306597126334, 0.1353352832366127),
    ],
    ids=str,
)
def test_alpha_at_both_ends(schedule: Schedule, clean: float, noise: float) -> None:
    found = schedule.alpha(torch.tensor([0.0, 1.0], dtype=torch.float64))
    same(found, torch.tensor([clean, noise], dtype=torch.float64))


@on_each
def test_the_rate_is_minus_the_slope(schedule: Schedule) -> None:
    t = times().requires_grad_()
    (slope,) = torch.autograd.grad(schedule.alpha(t).sum(), t)
    same(schedule.rate(t.detach()), -slope)


@on_each
def test_the_time_of_an_alpha_is_where_it_came_from(schedule: Schedule) -> None:
    found = schedule.time_of(schedule.alpha(times()))
    torch.testing.assert_close(found, times(), atol=1e-7, rtol=0)


@on_each
def test_rates_of_masking_and_of_its_reverse(schedule: Schedule) -> None:
    """They are derivatives: of -ln alpha, and of ln(1 - alpha)."""
    t = times().requires_grad_()
    (forward,) = torch.autograd.grad(-schedule.alpha(t).log().sum(), t)
    (reverse,) = torch.autograd.grad((1 - schedule.alpha(t)).log().sum(), t)
    same(masking_rate(schedule, t.detach()), forward)
    same(reverse_rate(schedule, t.detach()), reverse)


@on_each
def test_the_hazard_adds_up_and_leads_back(schedule: Schedule) -> None:
    t, m, s = (torch.tensor([v], dtype=torch.float64) for v in (0.9, 0.5, 0.2))
    same(hazard(schedule, t, m) + hazard(schedule, m, s), hazard(schedule, t, s))
    back = time_after_hazard(schedule, t, hazard(schedule, t, s))
    torch.testing.assert_close(back, s, atol=1e-9, rtol=0)


def test_points_of_an_equal_grid() -> None:
    steps = torch.tensor([4, 4, 4, 2, 2])
    found = grid_time(torch.tensor([0, 1, 4, 2, 5]), steps, 0.2)
    same(found, torch.tensor([1.0, 0.8, 0.2, 0.2, 0.2], dtype=torch.float64))


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (LogLinear, {"eps": 1.0}, r"LogLinear: eps=1\.0: must be in \[0, 1\)"),
        (Cosine, {"eps": -0.1}, r"Cosine: eps=-0\.1"),
        (Cosine, {"power": 0}, "Cosine: power=0: must be at least 1"),
        (HalfCosine, {"eps": 2.0}, r"HalfCosine: eps=2\.0"),
        (Geometric, {"sigma_min": 3.0, "sigma_max": 2.0}, r"sigma_min=3\.0, sigma_max=2\.0"),
        (Polynomial, {"power": 0.0}, r"Polynomial: power=0\.0: must be finite and above 0"),
        (Exponential, {"speed": float("inf")}, "Exponential: speed=inf"),
    ],
)
def test_fields_are_checked(kind: Any, options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**options)

"""Laws of a leap at frozen rates, against the ancestral step."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dlm_sampling.processes import Absorbing, jumps
from dlm_sampling.processes.flow import shortcut_law
from dlm_sampling.schedules import (
    Cosine,
    Exponential,
    Geometric,
    HalfCosine,
    LogLinear,
    Polynomial,
    Schedule,
    hazard,
    reverse_rate,
    time_after_hazard,
)
from tests.processes.enumerated import filled, others
from tests.processes.random_laws import MASK, SIZE, laws, masked, number, same

SCHEDULES: list[Schedule] = [
    LogLinear(0.0),
    LogLinear(0.01),
    Cosine(),
    Cosine(power=2),
    HalfCosine(),
    Geometric(),
    Polynomial(2.0),
    Exponential(4.0),
]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_a_leap_in_hazard_time_is_the_ancestral_step(schedule: Schedule) -> None:
    p, x = masked(3)
    process, t, s = Absorbing(MASK), number(0.8), number(0.35)
    rates = process.reverse_rates(p, x, number(1.0))
    ancestral = process.reverse(p, x, schedule.alpha(t), schedule.alpha(s))
    same(jumps.last_event_law(rates, x, hazard(schedule, t, s)), ancestral)
    same(shortcut_law(process.clean_law(p, x), x, schedule.alpha(t), schedule.alpha(s)), ancestral)
    half = 0.5 * hazard(schedule, t, s)
    same(hazard(schedule, t, time_after_hazard(schedule, t, half)), half)


def test_under_another_schedule_euler_is_not_ancestral() -> None:
    p, x = masked(2)
    process, schedule, t, s = Absorbing(MASK), HalfCosine(), number(0.7), number(0.5)
    ancestral = process.reverse(p, x, schedule.alpha(t), schedule.alpha(s))
    rates = process.reverse_rates(p, x, reverse_rate(schedule, t))
    assert float((jumps.euler_law(rates, x, t - s) - ancestral).abs().max()) > 1e-3


def frozen(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rates of very different sizes, some 0, tokens, and a window for every position."""
    p, x = laws(seed)
    rates = 3.0 * p * (p > 0.02)
    rates[0, 0] = 0.0
    return rates, x, torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)).double()


def test_laws_of_a_leap_are_their_formulas() -> None:
    rates, x, windows = frozen(31)
    for h in (windows, number(0.4), windows[:, :1]):
        wide = h.expand(x.shape).unsqueeze(-1)
        leave = others(rates, x)
        total = leave.sum(-1, keepdim=True)
        euler = filled(wide * leave, x).clamp_min(0.0)
        same(jumps.euler_law(rates, x, h), euler / euler.sum(-1, keepdim=True))
        share = leave / total.clamp_min(1e-300)
        same(jumps.last_event_law(rates, x, h), filled((1 - torch.exp(-wide * total)) * share, x))
        single = filled(wide * leave * torch.exp(-wide * total), x)
        same(jumps.single_event_law(rates, x, h), single)
        law = rates / rates.sum(-1, keepdim=True).clamp_min(1e-300)
        same(jumps.mixture_law(law, x, h), filled(wide * law, x))


def test_a_step_of_euler_that_is_too_long_is_an_argmax_race() -> None:
    rates, x = torch.tensor([[5.0, 2.0, 1.0]], dtype=torch.float64), torch.tensor([0])
    assert jumps.euler_law(rates, x, number(1.0)).tolist() == [[0.0, 2 / 3, 1 / 3]]


def summed(counts: list[float], x: int) -> Tensor:
    """The law of clamp(x + sum of displacements) by summing over the number of events."""
    size, total, law = len(counts), sum(counts), [0.0] * len(counts)
    places, weight = {0: 1.0}, math.exp(-total)
    for events in range(1, 80):
        for place, mass in places.items():
            law[min(max(x + place, 0), size - 1)] += weight * mass
        after: dict[int, float] = {}
        for place, mass in places.items():
            for y, count in enumerate(counts):
                if count > 0:
                    after[place + y - x] = after.get(place + y - x, 0.0) + mass * count / total
        places, weight = after, weight * total / events
    return torch.tensor(law, dtype=torch.float64)


def test_displacements_are_a_compound_poisson_sum() -> None:
    """18 positions: more than are transformed at a time."""
    rates, x, windows = frozen(32)
    found = jumps.displacement_law(rates, x, 2.0 * windows)
    leave = others(2.0 * windows.unsqueeze(-1) * rates, x)
    for n in range(len(x)):
        for i in range(x.shape[1]):
            wanted = summed(leave[n, i].tolist(), int(x[n, i]))
            torch.testing.assert_close(found[n, i], wanted, atol=1e-11, rtol=0)


def test_displacements_of_no_positions_are_no_laws() -> None:
    nothing = jumps.displacement_law(
        torch.empty(0, 2, SIZE).double(), torch.empty(0, 2, dtype=torch.int64), number(1.0)
    )
    assert nothing.shape == (0, 2, SIZE)


def test_many_events_go_to_the_end_of_the_symbols() -> None:
    rates, x = torch.tensor([[[0.0, 1.0]]], dtype=torch.float64), torch.tensor([[0]])
    most = number(jumps.MOST_EVENTS)
    same(jumps.displacement_law(rates, x, most), torch.tensor([[[0.0, 1.0]]]).double())
    one = jumps.displacement_law(rates, x, number(1.0))
    same(one, torch.tensor([[[math.exp(-1), 1 - math.exp(-1)]]], dtype=torch.float64))
    with pytest.raises(ValueError, match="1000 events"):
        jumps.displacement_law(rates, x, most + 1)


def test_displacements_have_a_largest_alphabet() -> None:
    size = jumps.LARGEST_ORDERED
    rates = torch.zeros(1, 1, size, dtype=torch.float64)
    rates[..., 3] = 0.1
    law = jumps.displacement_law(rates, torch.tensor([[2]]), number(1.0))
    events = [math.exp(-0.1) * 0.1**k / math.factorial(k) for k in range(5)]
    same(law[0, 0, 2:7], torch.tensor(events, dtype=torch.float64))
    wide = torch.zeros(1, 1, size + 1, dtype=torch.float64)
    with pytest.raises(ValueError, match="512 symbols"):
        jumps.displacement_law(wide, torch.tensor([[2]]), number(1.0))

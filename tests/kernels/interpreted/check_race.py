"""The race that is run in float32 first has the winner of the float64 race, near ties included."""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from dlm_kernels.common import race
from dlm_kernels.common.philox import rough_rates
from torch import Tensor

from dlm_sampling.ops.philox import exponential_from_words, lane_exponentials
from tests.kernels.interpreted.check_philox import edge_words
from tests.kernels.interpreted.twins import agree

KEY, STEP, SUB, LANES, FIRST = 12345, 5, 3, 128, 64


@triton.jit
def winner_kernel(rates, key, step, sub, out, FIRST: tl.constexpr, LANES: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, LANES)
    speed = tl.load(rates + row * LANES + lane)
    place = tl.load(key), row, tl.load(step), tl.load(sub)
    clock = race.rough_clocks(place[0], place[1], place[2], place[3], lane + FIRST, 0)
    won = race.winner(speed, clock, place[0], place[1], place[2], place[3], lane + FIRST, 0)
    tl.store(out + row, won.to(tl.int64))


@triton.jit
def rough_kernel(high, low, out, WIDTH: tl.constexpr):
    at = tl.arange(0, WIDTH)
    words = tl.load(high + at).to(tl.uint32), tl.load(low + at).to(tl.uint32)
    tl.store(out + at, rough_rates(words[0], words[1]))


def expected(rates: Tensor) -> Tensor:
    """The winners as specified, [R]."""
    return (rates / clocks(len(rates))).argmax(-1)


def clocks(rows: int) -> Tensor:
    places = torch.full((rows,), KEY), torch.arange(rows), torch.full((rows,), STEP)
    return lane_exponentials(*places, stream=0, lanes=FIRST + LANES, sub=SUB)[:, FIRST:]


def winners(rates: Tensor) -> Tensor:
    out = torch.full((len(rates),), -1)
    numbers = (torch.tensor(n) for n in (KEY, STEP, SUB))
    winner_kernel[(len(rates),)](rates, *numbers, out, FIRST=FIRST, LANES=LANES)
    return out


def near_ties() -> Tensor:
    """Rates whose quotients by the clocks are equal but for 2^-40 to 2^-8, one scale a row."""
    spread = 2.0 ** -torch.arange(8, 42, 3, dtype=torch.float64)
    noise = torch.rand(len(spread), LANES, generator=torch.Generator().manual_seed(0)).double()
    return clocks(len(spread)) * (1.0 - spread[:, None] * noise)


def test_the_winner_is_that_of_the_float64_race() -> None:
    """Near ties, ordinary rates, most of them 0, and near ties of rates too small for float32."""
    tied = near_ties()
    tiny = tied[:4] * 1e-42
    assert torch.equal(winners(tiny), expected(tiny))
    ordinary = torch.rand(4, LANES, generator=torch.Generator().manual_seed(1)).double() ** 8
    few = torch.zeros(2, LANES, dtype=torch.float64)
    few[0, 77], few[1, [3, 123]] = 1e-3, 1e-3
    rates = torch.cat([tied, ordinary, few])
    assert torch.equal(winners(rates), expected(rates))
    # Float32 alone would not do: of the rows tied below its digits, most have another winner.
    alone = (tied.float() * (1.0 / clocks(len(tied))).float()).argmax(-1)
    assert (alone != expected(tied))[-6:].sum() >= 4


def test_float32_rates_that_tie_in_float32_are_told_apart() -> None:
    rates = clocks(6).float()
    assert torch.equal(winners(rates), expected(rates.double()))


def test_equal_rates_go_to_the_fastest_clock_and_no_rate_to_the_first_lane() -> None:
    rates = torch.ones(3, LANES)
    rates[1] = 0.0
    rates[2] = math.nan
    found = winners(rates)
    assert found[0] == clocks(1)[0].argmin()
    assert found[1] == 0
    assert 0 <= found[2] < LANES


def test_float32_rates_are_within_the_bound_that_the_race_relies_on() -> None:
    high, low = edge_words()
    out = torch.zeros(1024)
    rough_kernel[(1,)](high, low, out, WIDTH=1024)
    exact = 1.0 / exponential_from_words(high, low)
    assert ((out.double() - exact).abs() <= 2.0**-19 * exact).all()


def test_drawn_tokens_of_near_ties() -> None:
    """Two ids in two runs, whose clocks differ by 4, 4, 10 and 10 parts in 10^8."""
    logits = torch.full((4, 64), -math.inf)
    logits[:, [0, 32]] = 0.0
    where = torch.tensor([1505273, 3357024, 9815611, 11358950])
    keys, steps = torch.full((4,), KEY), torch.full((4,), STEP)
    found = agree(logits, 4, keys=keys, positions=where, steps=steps)
    assert set(found.token.tolist()) == {0, 32}

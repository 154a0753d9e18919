from __future__ import annotations

import math
import random
from itertools import pairwise

import numpy as np
import pytest
import torch

from dlm_sampling.ops import Rng, Stream, fresh_seed, row_seeds
from dlm_sampling.ops.philox import (
    exponential_from_words,
    philox4x32,
    random_words,
    uniform_from_words,
)
from tests.ops.laws import chi_square_p, poisson_plausible

FULL = 0xFFFFFFFF


def philox_by_hand(counter: list[int], key: list[int]) -> list[int]:
    """The same function on Python's integers, from the paper's description of a round."""
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for _ in range(10):
        left, right = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = right >> 32 ^ c1 ^ k0, right & FULL, left >> 32 ^ c3 ^ k1, left & FULL
        k0, k1 = k0 + 0x9E3779B9 & FULL, k1 + 0xBB67AE85 & FULL
    return [c0, c1, c2, c3]


def run_philox(counter: list[int], key: list[int]) -> list[int]:
    words = philox4x32(*(torch.tensor([word]) for word in (*counter, *key)))
    return [int(word) for word in words]


# The known answers that Random123 publishes for philox4x32 with ten rounds.
@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([FULL] * 4, [FULL] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_known_answers(counter: list[int], key: list[int], answer: list[int]) -> None:
    assert run_philox(counter, key) == answer
    assert philox_by_hand(counter, key) == answer


def test_layout_of_counters_and_words() -> None:
    """The documented layout, spelled out on integers: what another implementation must match."""
    pick = random.Random(0)
    seeds = [pick.getrandbits(64) for _ in range(5)]
    keys = torch.tensor([s - (1 << 64) if s >> 63 else s for s in seeds])
    positions = torch.tensor([0, 7, -1, -300, 1 << 33])
    steps = torch.tensor([0, 1, 5, (1 << 28) - 1, 12345])
    high, low = random_words(keys, positions, steps, stream=Stream.REMASK, lanes=7, sub=3)
    for row, seed in enumerate(seeds):
        for lane in range(7):
            tag = int(steps[row]) | 3 << 28
            counter = [lane >> 1, int(positions[row]) & FULL, 3, tag]
            words = philox_by_hand(counter, [seed & FULL, seed >> 32])
            assert int(high[row, lane]) == words[2 * (lane & 1)]
            assert int(low[row, lane]) == words[2 * (lane & 1) + 1]


def test_exponential_reaches_far_into_both_ends() -> None:
    smallest = torch.tensor([0]), torch.tensor([0])
    for dtype in (torch.float32, torch.float64):
        arrival = exponential_from_words(*smallest, dtype)
        assert -arrival.log().item() >= 30.0
        assert arrival.item() == pytest.approx(2.0**-65)
        latest = exponential_from_words(torch.tensor([FULL]), torch.tensor([FULL]), dtype)
        assert latest.item() == pytest.approx(65 * math.log(2.0))


def test_exponential_is_accurate_everywhere() -> None:
    pick = random.Random(1)
    pairs = [(pick.getrandbits(32) >> pick.randrange(32), pick.getrandbits(32)) for _ in range(999)]
    pairs += [(FULL ^ high, low) for high, low in pairs] + [
        (0, 0),
        (1 << 31, 0),
        ((1 << 31) - 1, FULL),
    ]
    high, low = torch.tensor(pairs).unbind(1)
    exact = []
    for h, l in pairs:  # noqa: E741
        u = (2 * (h << 32 | l) + 1, 1 << 65)  # a fraction: exact, unlike any float near 1
        exact.append(-math.log1p(-u[0] / u[1]) if h < 1 << 31 else -math.log((u[1] - u[0]) / u[1]))
    want = torch.tensor(exact, dtype=torch.float64)
    assert torch.allclose(exponential_from_words(high, low), want, rtol=1e-14, atol=0.0)
    single = exponential_from_words(high, low, torch.float32).double()
    assert torch.allclose(single, want, rtol=4e-7, atol=0.0)


def test_tail_of_exponentials_by_dyadic_bins() -> None:
    """33 million draws: the law of E down to 2^-24, where 24-bit noise has run out of values."""
    count, deepest, small, grid = 1 << 25, 24, [], []
    bins = torch.zeros(deepest + 1, dtype=torch.int64)
    keys = torch.tensor([20240901])
    for part in range(16):
        zero = torch.zeros(1, dtype=torch.int64)
        high, low = random_words(keys, zero + part, zero, stream=Stream.USER, lanes=count // 16)
        near = high < 1 << 22  # u < 2^-10; the bins above it are counted from the integers
        arrival = exponential_from_words(high[near], low[near])
        depth = (-torch.log2(arrival)).floor().long().clamp(9, deepest)
        bins += torch.bincount(depth, minlength=deepest + 1)
        small.append(arrival[arrival < 2.0**-20])
        naive = -torch.log(1.0 - (high[near] >> 8).float() * 2.0**-24)
        grid.append(naive[naive < 2.0**-20])
    edges = [2.0**-k for k in range(10, deepest + 1)] + [0.0]
    law = torch.tensor([math.exp(-b) - math.exp(-a) for a, b in pairwise(edges)])
    seen = bins[10:]
    assert chi_square_p(seen, law / law.sum()) > 1e-3
    assert poisson_plausible(int(seen.sum()), count * (1.0 - math.exp(-(2.0**-10))), level=1e-3)
    # A 24-bit source has at most 16 values below 2^-20, however many draws are made.
    assert torch.cat(small).unique().numel() > 16
    assert torch.cat(grid).numel() > 16 >= torch.cat(grid).unique().numel()


def test_uniforms_are_uniform_and_open() -> None:
    rng = Rng.from_seeds([3, 4])
    u = rng.uniform(Stream.COMMIT, torch.empty(2, 200_000))
    for row in u:
        counts = torch.histc(row.float(), bins=64, min=0.0, max=1.0)
        assert chi_square_p(counts, torch.full((64,), 1 / 64)) > 1e-3
    ends = uniform_from_words(torch.tensor([0, FULL]), torch.tensor([0, FULL]))
    assert 0.0 < ends[0] < ends[1] < 1.0
    lag = torch.stack((u[0, :-1], u[0, 1:])) - 0.5
    assert abs(float((lag[0] * lag[1]).mean()) * 12.0) < 4.0 / math.sqrt(lag.shape[1])
    assert abs(float(((u[0] - 0.5) * (u[1] - 0.5)).mean()) * 12.0) < 4.0 / math.sqrt(u.shape[1])


def test_every_part_of_the_counter_changes_the_numbers() -> None:
    rng = Rng.from_seeds([5, 6, 5])
    like = torch.empty(3, 4)
    base = rng.uniform(Stream.POSITION, like)
    assert torch.equal(base[0], base[2]) and not torch.equal(base[0], base[1])
    later = rng.with_step(torch.tensor([0, 0, 1])).uniform(Stream.POSITION, like)
    assert torch.equal(later[:2], base[:2]) and not (later[2] == base[2]).any()
    others = (
        rng.uniform(Stream.REMASK, like),
        rng.uniform(Stream.POSITION, like, sub=1),
        rng.uniform(Stream.POSITION, torch.empty(3))[:, None],
    )
    for other in others:
        assert not (other == base).any()


def test_rows_do_not_depend_on_batch_or_padding() -> None:
    keys, step = torch.tensor([11, -12, 13]), torch.tensor([4, 5, 6])
    rng = Rng(keys, step, torch.tensor([0, 3, 1]))
    whole = rng.exponential(Stream.TIME, torch.empty(3, 9))
    for row, pad in enumerate((0, 3, 1)):
        alone = Rng(keys[row : row + 1], step[row : row + 1], torch.zeros(1, dtype=torch.int64))
        noise = alone.exponential(Stream.TIME, torch.empty(1, 9 - pad))
        assert torch.equal(whole[row, pad:], noise[0])
        one = rng.select(torch.tensor([row]))
        assert torch.equal(one.gumbel(Stream.TIME, torch.empty(1, 9))[0], -whole[row].log())


def test_at_gives_flat_coordinates() -> None:
    rng = Rng(torch.tensor([8, 9]), torch.tensor([2, 3]), torch.tensor([0, 2]))
    where = torch.tensor([[True, False, True], [False, False, True]])
    keys, positions, steps = rng.at(*where.nonzero(as_tuple=True))
    assert keys.tolist() == [8, 8, 9]
    assert positions.tolist() == [0, 2, 0]
    assert steps.tolist() == [2, 2, 3]


def test_wrong_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="B=2"):
        Rng.from_seeds([1, 2]).uniform(Stream.TIME, torch.empty(3, 4))


def test_row_seeds() -> None:
    seeds = row_seeds(7, 50)
    assert seeds[:20] == row_seeds(7, 20)
    assert len({*seeds, *row_seeds(8, 50), *row_seeds(-7, 50)}) == 150
    assert all(0 <= s < 1 << 63 for s in seeds)
    assert row_seeds([3, 1 << 63], 2) == [3, 1 << 63]
    assert row_seeds(np.int64(7), 2) == seeds[:2]
    assert row_seeds(np.array([3, 4]), 2) == row_seeds(torch.tensor([3, 4]), 2) == [3, 4]
    assert Rng.from_seeds([1 << 63]).keys.item() == -(1 << 63)
    with pytest.raises(ValueError, match="2 entries for 3 rows"):
        row_seeds([1, 2], 3)
    with pytest.raises(ValueError, match="64 bits"):
        row_seeds(1 << 64, 1)


def test_fresh_seeds_differ() -> None:
    seeds = {fresh_seed() for _ in range(20)}
    assert len(seeds) == 20 and max(seeds) < 1 << 53

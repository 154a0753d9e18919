from __future__ import annotations

import math
from itertools import permutations

import pytest
import torch
from torch import Tensor

from dlm_sampling.ops import (
    Rng,
    budget_positions,
    stochastic_positions,
    threshold_positions,
    top_k_positions,
)
from tests.ops.laws import chi_square_p


def brute_top_k(score: Tensor, eligible: Tensor, k: Tensor) -> Tensor:
    out = torch.zeros_like(eligible)
    for b in range(len(score)):
        where = [i for i in range(score.shape[1]) if eligible[b, i]]
        where.sort(key=lambda i: (-float(score[b, i]), i))
        out[b, where[: max(0, int(k[b]))]] = True
    return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64])
def test_top_k_matches_the_definition(dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(0)
    score = torch.randint(-3, 4, (400, 13), generator=g).to(dtype)  # many ties
    if dtype.is_floating_point:
        score[torch.rand(400, 13, generator=g) < 0.2] = -math.inf
    eligible = torch.rand(400, 13, generator=g) < torch.rand(400, 1, generator=g)
    k = torch.randint(-1, 16, (400,), generator=g)
    chosen = top_k_positions(score, eligible, k)
    assert torch.equal(chosen, brute_top_k(score, eligible, k))
    assert torch.equal(chosen.sum(-1), k.clamp(min=0).minimum(eligible.sum(-1)))


def test_lowest_position_wins_ties() -> None:
    chosen = top_k_positions(
        torch.zeros(1, 6), torch.tensor([[0, 1, 1, 0, 1, 1]]).bool(), torch.tensor([2])
    )
    assert chosen.tolist() == [[False, True, True, False, False, False]]


def test_nan_is_refused_only_where_it_matters() -> None:
    score = torch.tensor([[1.0, 2.0, 3.0], [0.0, math.nan, 1.0]])
    eligible = torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match="row 1, position 1"):
        top_k_positions(score, eligible, torch.tensor([1, 1]))
    eligible[1, 1] = False
    chosen = top_k_positions(score, eligible, torch.tensor([1, 2]))
    assert chosen.tolist() == [[False, False, True], [True, False, True]]


def test_rows_with_nothing_to_choose() -> None:
    none = torch.zeros(3, 4, dtype=torch.bool)
    assert not top_k_positions(torch.randn(3, 4), none, torch.tensor([0, 1, 9])).any()
    assert top_k_positions(torch.empty(2, 0), none[:2, :0], torch.tensor([1, 1])).shape == (2, 0)


def test_threshold_and_minimum() -> None:
    score = torch.tensor([[0.9, 0.2, 0.8, 0.99], [0.1, 0.3, 0.2, 0.3], [0.9, 0.9, 0.9, 0.9]])
    eligible = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0]]).bool()
    one = threshold_positions(score, eligible, 0.8)
    assert one.tolist() == [[True, False, True, False], [False, True, False, False], [False] * 4]
    rowwise = threshold_positions(score, eligible, torch.tensor([0.9, 0.2, 0.0]), at_least=2)
    assert rowwise.tolist() == [[True, False, True, False], [False, True, True, True], [False] * 4]
    most = threshold_positions(score, eligible, 2.0, at_least=torch.tensor([0, 3, 1]))
    assert most.sum(-1).tolist() == [0, 3, 0]


def subset_law(weights: list[float], k: int) -> Tensor:
    """Probability of every subset (as a bit set) after k draws without replacement."""
    law = torch.zeros(1 << len(weights), dtype=torch.float64)
    for order in permutations(range(len(weights)), k):
        left, p = sum(weights), 1.0
        for i in order:
            p *= weights[i] / left
            left -= weights[i]
        law[sum(1 << i for i in order)] += p
    return law


@pytest.mark.parametrize("k", [1, 2, 3])
def test_stochastic_choice_follows_the_weights(k: int) -> None:
    weights, rows = [0.5, 3.0, 1.0, 0.25, 2.0], 40_000
    eligible = torch.tensor([True, True, False, True, True, True]).expand(rows, 6)
    padded = torch.tensor([*weights[:2], 9.0, *weights[2:]])
    rng = Rng.from_seeds(range(rows))
    chosen = stochastic_positions(
        padded.log().expand(rows, 6), eligible, torch.full((rows,), k), rng
    )
    assert not chosen[:, 2].any() and (chosen.sum(-1) == k).all()
    bits = chosen[:, [0, 1, 3, 4, 5]].long() @ (1 << torch.arange(5))
    counts = torch.bincount(bits, minlength=32)
    assert chi_square_p(counts, subset_law(weights, k)) > 1e-3
    again = stochastic_positions(
        padded.log().expand(rows, 6), eligible, torch.full((rows,), k), rng
    )
    assert torch.equal(chosen, again)
    # Negative control: the wrong temperature is seen.
    assert chi_square_p(counts, subset_law([w**1.05 for w in weights], k)) < 1e-6


def test_weightless_positions_come_last() -> None:
    weight = torch.tensor([[-math.inf, 0.0, -math.inf, 0.0]])
    eligible = torch.ones(1, 4, dtype=torch.bool)
    for seed in range(20):
        rng = Rng.from_seeds([seed])
        two = stochastic_positions(weight, eligible, torch.tensor([2]), rng)
        assert two.tolist() == [[False, True, False, True]]
        assert stochastic_positions(weight, eligible, torch.tensor([3]), rng).sum() == 3


def brute_budget(score: list[float], cost: list[float], order: list[int], budget: float) -> set:
    order = sorted(order, key=lambda i: (-score[i], i))
    for size in range(len(order), 0, -1):
        spent = [max(cost[i], 0.0) for i in order[:size]]
        if math.fsum(spent) - max(spent) <= budget:
            return set(order[:size])
    return set()


def test_budget_takes_the_longest_affordable_head() -> None:
    g = torch.Generator().manual_seed(1)
    score = torch.randint(-3, 3, (300, 9), generator=g).float()  # many ties
    score[torch.rand(300, 9, generator=g) < 0.1] = -math.inf
    cost = torch.randint(-1, 5, (300, 9), generator=g).float() / 4.0
    eligible = torch.rand(300, 9, generator=g) < 0.8
    budget = torch.randint(0, 9, (300,), generator=g).double() / 4.0
    found = budget_positions(score, cost, eligible, budget)
    for b in range(300):
        allowed = eligible[b].nonzero()[:, 0].tolist()
        want = brute_budget(score[b].tolist(), cost[b].tolist(), allowed, float(budget[b]))
        assert set(found[b].nonzero()[:, 0].tolist()) == want
    assert torch.equal(budget_positions(score, cost, eligible, 1e9), eligible)
    with pytest.raises(ValueError, match="row 0, position 0"):
        budget_positions(score * math.nan, cost, eligible | True, 1.0)

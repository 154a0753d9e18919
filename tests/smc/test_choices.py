"""Choices among rows against closed forms and counts of all subsets."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch

from dlm_sampling.smc.choices import best_of, least_risk, pass_at, soft_best_of


def test_the_best_row_has_the_law_of_the_largest_score() -> None:
    """Every group of three scores from {0, 1, 2} with weights .5, .3, .2: F(x)^n - F(x-)^n."""
    weight, cumulated = (0.5, 0.3, 0.2), (0.5, 0.8, 1.0)
    groups = torch.tensor(list(itertools.product(range(3), repeat=3)))
    chance = torch.tensor([math.prod(weight[i] for i in g) for g in groups.tolist()])
    chosen = groups.gather(1, best_of(groups)[:, None])[:, 0]
    for x in range(3):
        wanted = cumulated[x] ** 3 - (cumulated[x - 1] ** 3 if x else 0.0)
        assert float(chance[chosen == x].sum()) == pytest.approx(wanted, abs=1e-6)
    assert best_of(torch.tensor([[1.0, 3.0, 3.0]])).tolist() == [1]


def test_the_soft_choice_is_a_softmax() -> None:
    scores = torch.tensor([[0.0, 1.0, -1.0]])
    uniform = (torch.arange(20_000) + 0.5).double() / 20_000
    drawn = soft_best_of(scores.expand(20_000, -1), 0.5, uniform)
    shares = torch.bincount(drawn, minlength=3).double() / 20_000
    torch.testing.assert_close(shares, (scores[0].double() / 0.5).softmax(0), rtol=0, atol=1e-4)
    assert soft_best_of(scores, 0.0, uniform[:1]).tolist() == [1]
    none, thirds = torch.full((3, 3), -math.inf), torch.tensor([0.1, 0.5, 0.9]).double()
    assert soft_best_of(none, 0.5, thirds).tolist() == [0, 1, 2]


def test_least_risk_is_the_row_that_most_others_resemble() -> None:
    texts = ["ab", "ab", "ax", "zz"]
    same = [[[a == b for a, b in zip(i, j, strict=True)] for j in texts] for i in texts]
    utility = torch.tensor(same).sum(2)
    assert least_risk(utility[None]).tolist() == [0]
    assert least_risk(utility[None], torch.tensor([[0.0, 0.0, 0.1, 0.9]])).tolist() == [3]


@pytest.mark.parametrize(("n", "right", "k"), [(5, 2, 1), (5, 2, 3), (5, 3, 3), (5, 0, 2)])
def test_pass_at_k_counts_the_subsets(n: int, right: int, k: int) -> None:
    correct = torch.arange(n) < right
    subsets = list(itertools.combinations(correct.tolist(), k))
    wanted = sum(any(subset) for subset in subsets) / len(subsets)
    assert float(pass_at(correct[None], k)) == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: best_of(torch.tensor([[math.nan, 1.0]])), "without NaN"),
        (lambda: soft_best_of(torch.ones(1, 2), -1.0, torch.ones(1)), "temperature=-1.0: must"),
        (lambda: soft_best_of(torch.full((1, 2), math.inf), 1.0, torch.ones(1)), ".inf is above"),
        (lambda: least_risk(torch.ones(1, 2, 3)), r"utilities have shape \(1, 2, 3\)"),
        (lambda: least_risk(torch.ones(1, 2, 2), torch.ones(2)), r"weights have shape \(2,\)"),
        (lambda: pass_at(torch.ones(1, 2).bool(), 3), r"k=3: must be in \[1, n\]"),
    ],
)
def test_what_cannot_be_is_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()

"""Top-p on a CPU ends where all weights say, whichever of them are looked at."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest
import torch

from dlm_sampling.ops import nucleus_cpu
from dlm_sampling.types import TokenLaw
from tests.ops.test_filters_cpu import agrees


@pytest.fixture
def by_few(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Note for every row of top-p whether the tokens of large weights were enough."""
    noted: list[bool] = []
    whole = nucleus_cpu.nucleus_of_few

    def noting(*arguments: Any) -> Any:
        found = whole(*arguments)
        noted.append(found is not None)
        return found

    monkeypatch.setattr(nucleus_cpu, "nucleus_of_few", noting)
    return noted


@pytest.mark.slow
def test_a_peaked_law_is_cut_by_the_tokens_of_large_weights(by_few: list[bool]) -> None:
    vocab, g = 9001, torch.Generator().manual_seed(3)
    x = torch.randn(2, vocab, generator=g)
    head = torch.stack([torch.randperm(vocab, generator=g)[:40] for _ in x])
    x.scatter_(1, head, 18.0 - 1.5 * torch.arange(1.0, 41.0).log().expand(2, -1))
    tied = (x * 2.0).round() / 2.0
    tied[0, ::3] = -math.inf
    for table, top_p in product((x, x.double(), x.bfloat16().float(), tied), (1e-9, 0.5, 0.95)):
        for law in (
            TokenLaw(top_p=top_p),
            TokenLaw(top_p=top_p, crossing="exclude"),
            TokenLaw(top_p=top_p, min_p=0.01),
        ):
            agrees(table, law)
    assert sum(by_few) > 0.8 * len(by_few)
    by_few.clear()
    agrees(x / 8.0, TokenLaw(top_p=0.9))  # flat
    agrees(x, TokenLaw(top_p=1.0 - 1e-6))  # ends beyond the large weights
    assert by_few == [False] * 4


def test_a_head_of_exactly_the_mass_is_told_by_all_weights(by_few: list[bool]) -> None:
    x = torch.full((1, 9000), -math.inf)
    x[0, 100:104] = 0.0
    for top_p in (0.5, 0.75, 0.25 + 2**-30):
        agrees(x, TokenLaw(top_p=top_p))
        agrees(x, TokenLaw(top_p=top_p, crossing="exclude"))
    # The others may have a mass, as far as rounding tells, but no negative one.
    assert by_few == [False, True] * 2 + [True] * 2


@pytest.mark.slow
def test_the_rounding_of_the_other_weights_is_allowed_for(by_few: list[bool]) -> None:
    """A sum of 120000 equal weights, one by one, is off by more than a token at the boundary."""
    vocab, middle = 1 << 17, 6000
    weight = torch.full((1, vocab), 80.5 * 2.0**-31)
    order = torch.randperm(vocab, generator=torch.Generator().manual_seed(0))
    weight[0, order[:middle]], weight[0, order[middle]] = 4e-6, 1.0
    x, others = weight.log(), weight[0, order[middle + 1 :]]
    summed = float(torch.bincount(torch.zeros(len(others), dtype=torch.int64), others)[0])
    assert abs(summed - float(others.double().sum())) > 4e-6
    total = float(weight.double().sum())
    for part in range(8):
        agrees(x, TokenLaw(top_p=(1.0 + (1000.5 + part / 4) * 4e-6) / total), weight=weight)
    assert not any(by_few)
    agrees(x, TokenLaw(top_p=0.9), weight=weight)  # ends in the largest, by far
    assert by_few[-1]


def test_the_bounds_of_the_mass_hold_the_sum_of_all_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every addition beyond 2^-9 is a tie that loses half a unit: more than a tree ever does."""
    weight = torch.full((1 << 18,), 80.5 * 2.0**-32)
    weight[0] = 1.0
    seen = nucleus_cpu.Seen(weight.log(), weight, torch.tensor(0.0), 1.0, 1 << 14, 128.0)
    limits: list[float] = []
    whole = nucleus_cpu._end

    def noting(*arguments: Any) -> Any:
        limits.append(arguments[3])
        return whole(*arguments)

    monkeypatch.setattr(nucleus_cpu, "_end", noting)
    found = nucleus_cpu.nucleus_of_few(seen, 0.5, "include")
    assert found is not None and found.tokens()[0].tolist() == [0]
    least, most = (limit / 0.5 for limit in limits)
    summed, true = float(seen.masses(seen.places())[-1]), float(weight.double().sum())
    unit = 2.0**-24
    assert true - summed > 128 * unit * true
    assert least <= summed <= true <= most
    # What the sentence allows for: 128 u of all, and n u of the others, either way.
    others = true - 1.0
    assert most - least == pytest.approx(2 * unit * (128 * true + len(weight) * others), rel=0.02)

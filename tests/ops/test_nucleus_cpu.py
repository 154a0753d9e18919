"""Top-p on a CPU ends where the operators that run on every device say, to the last bit."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch

from dlm_sampling.ops import filters, filters_cpu, nucleus_cpu
from dlm_sampling.types import TokenLaw
from tests.ops.test_filters_cpu import agrees


def both(top_p: float) -> tuple[TokenLaw, TokenLaw]:
    return TokenLaw(top_p=top_p), TokenLaw(top_p=top_p, crossing="exclude")


@pytest.mark.slow
@pytest.mark.parametrize("vocab", [1500, 17_001])  # one of each way to fill the bins
def test_flat_peaked_and_tied_laws(vocab: int) -> None:
    g = torch.Generator().manual_seed(3)
    flat = torch.randn(2, vocab, generator=g)
    peaked = flat.clone()
    peaked[:, torch.randperm(vocab, generator=g)[:40]] = 18.0 - 1.5 * torch.arange(1.0, 41.0).log()
    tied = (peaked * 2.0).round() / 2.0
    tied[0, ::3], tied[1] = -math.inf, 0.25
    alone = torch.full((1, vocab), -math.inf)
    alone[0, 700] = 3.0
    tables = (flat, flat / 10.0, flat.double() / 40.0, (flat / 4.0).bfloat16().float(), peaked,
              tied, alone)  # fmt: skip
    for table, top_p in product(tables, (1e-9, 0.5, 0.9, 1.0 - 1e-6)):
        for law in both(top_p):
            agrees(table, law)


def test_parts_of_a_bin_are_told_by_their_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a bin of hundreds of tokens few are sorted; those around them keep the floor's verdict."""
    sorted_ids: list[int] = []
    whole = nucleus_cpu._part

    def noting(*arguments: object) -> nucleus_cpu._Part:
        found = whole(*arguments)  # pyright: ignore[reportArgumentType]
        sorted_ids.append(len(found.ids))
        return found

    monkeypatch.setattr(nucleus_cpu, "_part", noting)
    x = torch.rand(1, 6000, generator=torch.Generator().manual_seed(5)) / 4.0
    for part in range(6):
        agrees(x, TokenLaw(top_p=0.5 + part / 250, min_p=0.9 if part == 3 else None))
        agrees(x.double(), TokenLaw(top_p=0.04 + part / 250, crossing="exclude"))
    assert len(sorted_ids) == 12 and 0 < max(sorted_ids) < 100


@pytest.mark.parametrize("vocab", [129, 1024, 9000])
def test_a_head_of_exactly_the_mass(vocab: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to 1024 tokens are one bin of the operators; sums that meet the limit are theirs."""
    rows: list[int] = []
    whole = filters_cpu._sorted

    def noting(x: filters_cpu.Numbers, *rest: object) -> filters_cpu.Edges:
        rows.append(len(x))
        return whole(x, *rest)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(filters_cpu, "_sorted", noting)
    x = torch.full((2, vocab), -math.inf)
    x[0, 100:104], x[1, 3:128] = 0.0, torch.linspace(0.0, -2.0, 125)
    for top_p in (0.5, 0.75, 0.25 + 2**-30):
        for law in both(top_p):
            agrees(x, law)
    assert rows == ([1] * 4 if vocab <= 1024 else [])
    for law in both(0.5):
        agrees(torch.zeros(2, vocab), law)


def test_other_temperatures_and_logits_of_any_size() -> None:
    """A bin is no power of 2 wide at temperature 0.7; 32 times the largest logit overflows."""
    g = torch.Generator().manual_seed(1)
    x = torch.randn(3, 2000, generator=g)
    for temperature in (0.5, 0.7, 2.0):
        agrees(x, TokenLaw(top_p=0.8), temperature)
    agrees(x * 1e37, TokenLaw(top_p=0.8))
    inverse = torch.tensor([[1.0], [0.3], [4.0]])
    peak = x.amax(-1)
    weight = ((x - peak[:, None]) * inverse).exp()
    one, other = weight.clone(), weight.clone()
    law = TokenLaw(top_p=0.6)
    found = filters.truncate(one, x, peak, law, inverse)
    expected = filters._truncate(other, x, peak, law, inverse)
    assert torch.equal(one, other)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_parts_that_end_at_the_limit_and_logits_of_one_weight() -> None:
    x, weight = torch.zeros(1, 4100), torch.ones(1, 4100)
    x[0, 1::2], weight[0, 1::2] = -(2.0**-7), 1.0 - 2.0**-7
    for law in both(1.0 / (2.0 - 2.0**-7)):
        agrees(x, law, weight=weight)
    order = torch.randperm(3000, generator=torch.Generator().manual_seed(2))
    for part in range(8):
        agrees(1.0 + order[None] * 2.0**-23, TokenLaw(top_p=0.4 + part / 100), 4.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("vocab", "middle", "each", "small"),
    [(1 << 17, 6000, 4e-6, 80.5 * 2.0**-31), (16_300, 299, 4e-7, 97.0304 * 2.0**-28)],
)
def test_the_order_of_a_sum_decides(vocab: int, middle: int, each: float, small: float) -> None:
    """A sum of many equal weights, one by one, is off by more than a token at the boundary."""
    weight = torch.full((1, vocab), small)
    order = torch.randperm(vocab, generator=torch.Generator().manual_seed(0))
    weight[0, order[:middle]], weight[0, order[middle]] = each, 1.0
    x, others = weight.log(), weight[0, order[middle + 1 :]]
    summed = float(torch.bincount(torch.zeros(len(others), dtype=torch.int64), others)[0])
    assert abs(summed - float(others.double().sum())) > each
    total = float(weight.double().sum())
    for part in range(3):
        top_p = (1.0 + (middle // 6 + 0.5 + part / 3) * each) / total
        agrees(x, TokenLaw(top_p=top_p), weight=weight)

"""The filters of the CPU find the boundaries of the operators that run on every device."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from torch import Tensor

from dlm_sampling.ops import filters
from dlm_sampling.types import TokenLaw

LAWS = [
    TokenLaw(1.0, top_k, top_p, min_p, crossing)
    for top_k, top_p, min_p, crossing in product(
        (None, 1, 7, 50), (None, 0.5, 0.999), (None, 0.05), ("include", "exclude")
    )
    if (top_k, top_p, min_p) != (None, None, None)
]


def tables(vocab: int) -> list[Tensor]:
    """Logits in general position, with many ties, with ids that may not be drawn, all equal."""
    x = torch.randn(3, vocab, generator=torch.Generator().manual_seed(vocab)) * 3.0
    tied = (x * 2.0).round() / 2.0
    tied[:, ::5], tied[1] = -math.inf, 0.0
    return [x, x.double(), x.bfloat16().float(), tied]


def check(vocab: int, laws: list[TokenLaw]) -> None:
    for x, law, temperature in product(tables(vocab), laws, (1.0, 0.02)):
        agrees(x, law, temperature)


def agrees(
    x: Tensor, law: TokenLaw, temperature: float = 1.0, weight: Tensor | None = None
) -> None:
    peak = x.amax(-1)
    if weight is None:
        weight = ((x - peak[:, None]) / temperature).exp()
    found, expected = weight.clone(), weight.clone()
    one = filters.truncate(found, x, peak, law, 1.0 / temperature)
    other = filters._truncate(expected, x, peak, law, 1.0 / temperature)
    assert torch.equal(found, expected), law
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True)), law


@pytest.mark.slow
@pytest.mark.parametrize("vocab", [3, 100])
def test_small_vocabularies(vocab: int) -> None:
    check(vocab, LAWS)


@pytest.mark.slow
@pytest.mark.parametrize("vocab", [1025, 10_001])
def test_vocabularies_of_several_tiles(vocab: int) -> None:
    """Of 10001 tokens, 7 are looked for in a few runs, and 20 in all; top_p=1 drops none."""
    more = [TokenLaw(top_k=7), TokenLaw(top_k=20), TokenLaw(top_p=1.0, min_p=0.05)]
    check(vocab, [*LAWS[:: 1 if vocab < 2000 else 4], *more])


def test_a_row_without_a_law_leaves_the_others_alone() -> None:
    x = torch.randn(3, 40)
    x[1, 7] = math.nan
    peak = x.amax(-1)
    weight = (x - peak[:, None]).exp()
    law = TokenLaw(top_k=5, top_p=0.9)
    found = filters.truncate(weight, x, peak, law, 1.0)
    for row in (0, 2):
        alone = (x[row : row + 1] - peak[row]).exp()
        boundary = filters._truncate(alone, x[row : row + 1], peak[row : row + 1], law, 1.0)
        assert torch.equal(weight[row], alone[0])
        assert [int(part[row]) for part in found[1:]] == [int(part[0]) for part in boundary[1:]]

"""Filters at equality: what is kept where a head holds exactly the mass, or a weight the bound."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dlm_sampling import ops
from dlm_sampling.types import Crossing, TokenLaw
from tests.ops.laws import brute_law

EVEN = torch.zeros(1, 4)
HALVES = torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log()
LARGE = torch.full((1, 3000), -math.inf).index_fill(1, torch.tensor([7, 900, 1500, 2999]), 0.0)


def kept(logits: Tensor, law: TokenLaw) -> int:
    """How many tokens pass, by the table, and by what 400 draws show."""
    table = ops.log_probs(logits, law=law)
    zero = torch.zeros(400, dtype=torch.int64)
    drawn = ops.draw(logits, keys=zero, positions=zero.cumsum(0), steps=torch.arange(400),
                     law=law, rows=zero)  # fmt: skip
    passed = ~table[0].isneginf()
    assert sorted(set(drawn.token.tolist())) == passed.nonzero().flatten().tolist()
    return int(passed.sum())


@pytest.mark.parametrize("crossing", ["include", "exclude"])
@pytest.mark.parametrize(
    ("logits", "top_p", "count"),
    [(EVEN, 0.5, 2), (EVEN, 0.25, 1), (EVEN, 0.75, 3), (HALVES, 0.5, 1), (LARGE, 0.5, 2)],
)
def test_a_head_that_holds_exactly_the_mass_is_the_nucleus(
    logits: Tensor, top_p: float, count: int, crossing: Crossing
) -> None:
    """The smallest head that reaches it and the largest that does not exceed it are the same."""
    assert kept(logits, TokenLaw(top_p=top_p, crossing=crossing)) == count


def test_between_two_heads_the_rules_differ_by_the_token_that_crosses() -> None:
    for logits, top_p, included in ((EVEN, 0.6, 3), (HALVES, 0.6, 2), (LARGE, 0.6, 3)):
        assert kept(logits, TokenLaw(top_p=top_p)) == included
        assert kept(logits, TokenLaw(top_p=top_p, crossing="exclude")) == included - 1
    assert kept(EVEN, TokenLaw(top_p=0.1, crossing="exclude")) == 1  # the first token always stays


def test_a_token_of_exactly_the_bound_passes_min_p() -> None:
    """p(v) = min_p max p is kept, as transformers keeps it; the next smaller number is not."""
    bound = float(torch.tensor(-1.0).exp())
    logits = torch.tensor([[0.0, -1.0, -1.0000002]])
    assert float(logits[0, 2].exp()) < bound
    assert kept(logits, TokenLaw(min_p=bound)) == 2


@pytest.mark.parametrize("vocab", [7, 40, 1300])
def test_filters_match_the_definition(vocab: int) -> None:
    """Many ties, every combination of filters, token for token."""
    g = torch.Generator().manual_seed(vocab)
    logits = (torch.randn(6, vocab, generator=g, dtype=torch.float64) * 3.0).round(decimals=1)
    logits[0, 1:] = -math.inf
    for top_k in (None, 1, 10, 5000):
        for top_p in (None, 0.05, 0.7, 1.0):
            for min_p, crossing in ((None, "include"), (0.2, "exclude"), (0.0, "include")):
                law = TokenLaw(0.8, top_k, top_p, min_p, crossing, (2, vocab - 1))
                exact = torch.stack([brute_law(row, law) for row in logits])
                found = ops.log_probs(logits, law=law).exp()
                assert torch.allclose(found, exact, rtol=1e-12, atol=1e-14), law

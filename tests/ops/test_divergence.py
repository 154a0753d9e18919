from __future__ import annotations

import math

import pytest
import torch

from dlm_sampling import ops
from dlm_sampling.types import TokenLaw


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_divergence_is_that_of_the_two_laws(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(2, 5, 1500, generator=generator, dtype=torch.float64) * 3.0).to(dtype)
    x[0, 100:] = -torch.inf
    y[1, :700] = -torch.inf  # q = 0 where p is not: only the added number keeps it finite
    x[2] = y[2]
    law = TokenLaw(suppressed=(0, 1400))
    wide = [v.double().index_fill(1, torch.tensor(law.suppressed), -torch.inf) for v in (x, y)]
    norms = [v.logsumexp(-1) for v in wide]
    p, q = (v.softmax(-1) for v in wide)
    exact = (p * ((p + 1e-12).log() - (q + 1e-12).log())).sum(-1)
    found = ops.divergence(x, y, *norms, law=law)
    tight = 1e-12 if dtype == torch.float64 else 2e-5
    assert torch.allclose(found.double(), exact, rtol=tight, atol=tight)
    assert found[2] <= 1e-7 and found.dtype == ops.log_probs(x[:0]).dtype
    rows = torch.tensor([4, 1])
    some = ops.divergence(x, y, *(n[rows] for n in norms), law=law, rows=rows)
    assert torch.equal(some, found[rows])
    other_way = ops.divergence(y, x, *norms[::-1], law=law)
    assert not torch.allclose(other_way[3:], found[3:], rtol=0.01)


def test_a_token_without_probability_adds_nothing() -> None:
    """Laws 1/2, 1/2, 0, 0 and 1/4, 1/2, 1/4, 0: the terms are ln(2) / 2, 0, 0 and 0."""
    x, y = torch.tensor([[[0.5, 0.5, 0.0, 0.0]], [[0.25, 0.5, 0.25, 0.0]]]).double().log()
    zero = torch.zeros(1, dtype=torch.float64)
    found = ops.divergence(x, y, zero, zero, tiny=0.0)
    assert found.tolist() == pytest.approx([math.log(2.0) / 2.0], rel=1e-12)
    assert ops.divergence(y, x, zero, zero, tiny=0.0).tolist() == [math.inf]


def test_shapes_must_fit() -> None:
    x = torch.zeros(2, 5)
    with pytest.raises(ValueError, match=r"shapes \(2, 4\), \(2,\), \(2,\): must be \(2, 5\)"):
        ops.divergence(x, x[:, :4], x[:, 0], x[:, 0])
    assert ops.divergence(x[:0], x[:0], x[:0, 0], x[:0, 0]).shape == (0,)

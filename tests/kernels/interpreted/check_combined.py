"""Two logits read as one, under the interpreter, against the same pair in torch."""

from __future__ import annotations

import pytest
import torch
from dlm_kernels import operators

from dlm_sampling import ops
from dlm_sampling.ops import Guided, Remainder
from dlm_sampling.types import TokenLaw
from tests.kernels.interpreted.twins import agree, noise, normal, same_law

ONE, OTHER = normal(3, 1030, 1), normal(3, 1030, 2)
ROWS = torch.tensor([2, 0, 2, 1])


@pytest.mark.parametrize("weight", [0.0, torch.tensor([0.5, -2.0, 3.0])], ids=str)
def test_guidance(weight: float | torch.Tensor) -> None:
    pair = Guided(ONE, OTHER, weight)
    found = agree(pair, 4, rows=ROWS, law=TokenLaw(suppressed=(5, 1025)))
    if isinstance(weight, float) and weight == 0.0:
        alone = ops.draw(ONE, **noise(4), rows=ROWS, law=TokenLaw(suppressed=(5, 1025)))
        assert torch.equal(found.token, alone.token)


def test_guidance_of_narrow_dtypes_strides_and_filters() -> None:
    one, other = ONE.bfloat16().T.contiguous().T, OTHER.bfloat16()
    pair = Guided(one, other, 1.0)
    agree(pair, 3, law=TokenLaw(0.8, top_p=0.9, top_k=50), statistics="law")


@pytest.mark.parametrize("factors", [(2.0, 1.0), (4.0, torch.tensor([0.0, 3.0, 2.5]))], ids=str)
def test_remainder(factors: tuple[float, float | torch.Tensor]) -> None:
    pair = Remainder(ONE, OTHER, ONE.logsumexp(-1), OTHER.logsumexp(-1), factors)
    found = agree(pair, 4, rows=ROWS)
    rates = pair.rows().fetch(torch.arange(3)).exp()
    assert (rates[ROWS, found.token] > 0).all()
    torch.testing.assert_close(found.log_normalizer, rates.sum(1).log()[ROWS], rtol=1e-5, atol=1e-5)
    if isinstance(factors[1], float):
        law = same_law(pair, torch.tensor([0, 1024, 1029]), law=TokenLaw(0.5, top_k=30))
        assert (~law.isneginf()).sum(1).tolist() == [30, 30, 30]


def test_pairs_run_the_kernels_through_the_ops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DLM_KERNELS", "triton")
    noise = dict.fromkeys(("keys", "positions", "steps"), torch.arange(3))
    forced = ops.draw(Guided(ONE, OTHER, 1.0), **noise)
    assert ops.log_prob_of(Guided(ONE, OTHER, 1.0), forced.token).shape == (3,)
    monkeypatch.setenv("DLM_KERNELS", "torch")
    assert torch.equal(forced.token, ops.draw(Guided(ONE, OTHER, 1.0), **noise).token)


@pytest.mark.parametrize("tiny", [1e-12, 1e-3])
def test_divergence(tiny: float) -> None:
    one, other, law = ONE.clone(), OTHER.bfloat16().float(), TokenLaw(suppressed=(7, 1029))
    one[0, 500:900] = -torch.inf
    one[1] = other[1] + 1e-3
    norms = [ops.draw(x, **noise(3), law=law).log_normalizer for x in (one, other)]
    expected = ops.divergence(one, other, *norms, law=law, tiny=tiny)
    found = operators.divergence(one, other, *norms, suppressed=law.suppressed, tiny=tiny)
    torch.testing.assert_close(found, expected, rtol=3e-6, atol=3e-6)
    some, rows = [n[[2, 1]] for n in norms], ROWS[[0, 3]]
    picked = operators.divergence(
        one, other, *some, suppressed=law.suppressed, rows=rows, tiny=tiny
    )
    assert torch.equal(picked, found[[2, 1]])
    assert operators.divergence(one[:0], other[:0], norms[0][:0], norms[0][:0]).shape == (0,)

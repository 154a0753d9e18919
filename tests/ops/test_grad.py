"""The gradient of log-probabilities: the closed form, finite differences, and what has none."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dlm_sampling import ops
from dlm_sampling.types import TokenLaw


def source(logits: Tensor, block: int = 2) -> ops.LogitRows:
    return ops.LogitRows(lambda i: logits[i], *logits.shape, logits.device, block)


def leaf(rows: int = 5, vocab: int = 7) -> Tensor:
    g = torch.Generator().manual_seed(1)
    return torch.randn(rows, vocab, generator=g, dtype=torch.float64).requires_grad_()


def test_value_and_gradient_of_two_tokens_by_hand() -> None:
    """Weights 3 and 1 at temperature 1/2: p = 9/10, 1/10; the slope is (1[u = v] - p(u)) / T."""
    logits = torch.tensor([[math.log(3.0), 0.0]], dtype=torch.float64, requires_grad=True)
    found = ops.differentiable_log_prob_of(
        source(logits), torch.tensor([1]), law=TokenLaw(temperature=0.5)
    )
    assert found.item() == pytest.approx(math.log(0.1))
    (slope,) = torch.autograd.grad(found.sum(), logits)
    torch.testing.assert_close(slope, torch.tensor([[-1.8, 1.8]], dtype=torch.float64))


@pytest.mark.parametrize(
    "law",
    [TokenLaw(), TokenLaw(0.6, suppressed=(2,)), TokenLaw(1.3, top_k=4), TokenLaw(top_p=0.8)],
    ids=str,
)
def test_values_are_those_of_log_prob_of_and_slopes_those_of_differences(law: TokenLaw) -> None:
    logits, tokens = leaf(), torch.tensor([0, 1, 3, 6, 5])
    found = ops.differentiable_log_prob_of(source(logits), tokens, law=law)
    assert torch.equal(found.detach(), ops.log_prob_of(logits.detach(), tokens, law=law))
    weights = torch.arange(1.0, 6.0, dtype=torch.float64)
    possible = found > -math.inf
    (slope,) = torch.autograd.grad((found[possible] * weights[possible]).sum(), logits)
    h = 1e-6
    for row, token in ((0, 0), (2, 1), (4, 5)):
        step = torch.zeros_like(slope)
        step[row, token] = h
        up, down = (
            ops.log_prob_of(logits.detach() + sign * step, tokens, law=law) for sign in (1, -1)
        )
        change = ((up - down)[possible] * weights[possible]).sum() / (2 * h)
        assert float(slope[row, token]) == pytest.approx(float(change), abs=1e-7)


@pytest.mark.parametrize(
    "law", [TokenLaw(), TokenLaw(0.6, suppressed=(2,)), TokenLaw(1.3, top_k=4)], ids=str
)
def test_entropies_are_sums_over_the_law_and_their_slopes_those_of_differences(
    law: TokenLaw,
) -> None:
    def wanted(x: torch.Tensor) -> torch.Tensor:
        return torch.special.entr(ops.log_probs(x, law=law).exp()).sum(1)

    logits = leaf()
    found = ops.differentiable_entropy(source(logits), law=law)
    torch.testing.assert_close(found.detach(), wanted(logits.detach()))
    (slope,) = torch.autograd.grad(found.sum(), logits)
    h = 1e-6
    for row, token in ((0, 0), (2, 1), (4, 5)):
        step = torch.zeros_like(slope)
        step[row, token] = h
        up, down = (wanted(logits.detach() + sign * step).sum() for sign in (1, -1))
        assert float(slope[row, token]) == pytest.approx(float(up - down) / (2 * h), abs=1e-7)


def test_no_slope_at_temperature_zero_nor_of_a_token_that_does_not_pass() -> None:
    logits, tokens = leaf(2, 4), torch.tensor([0, 0])
    found = ops.differentiable_log_prob_of(source(logits), tokens, law=TokenLaw(temperature=0.0))
    assert set(found.tolist()) <= {0.0, -math.inf}
    (slope,) = torch.autograd.grad(found.sum(), logits)
    assert not slope.any()
    logits = leaf(1, 4)
    out = ops.differentiable_log_prob_of(source(logits), tokens[:1], law=TokenLaw(suppressed=(0,)))
    assert out.item() == -math.inf
    (slope,) = torch.autograd.grad(out.sum(), logits)
    assert not slope.any()


def test_logits_are_made_again_a_block_at_a_time() -> None:
    logits = leaf()
    asked: list[list[int]] = []

    def fetch(i: Tensor) -> Tensor:
        asked.append(i.tolist())
        return logits[i]

    rows = ops.LogitRows(fetch, 5, 7, logits.device, 2)
    found = ops.differentiable_log_prob_of(rows, torch.zeros(5, dtype=torch.int64))
    assert asked == [[0, 1], [2, 3], [4]]
    found.sum().backward()
    assert sorted(asked[3:]) == [[0, 1], [2, 3], [4]]


def test_a_row_without_a_law_is_refused_with_its_number_in_the_source() -> None:
    logits = torch.zeros(3, 2).index_fill(0, torch.tensor([2]), math.nan)
    with pytest.raises(ValueError, match=r"row 2 .*NaN"):
        ops.differentiable_log_prob_of(source(logits), torch.zeros(3, dtype=torch.int64))


def test_a_source_without_rows_has_no_log_probabilities() -> None:
    found = ops.differentiable_log_prob_of(source(leaf(0)), torch.zeros(0, dtype=torch.int64))
    assert found.shape == (0,)

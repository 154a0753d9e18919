"""K3 on rows too long for registers, under the interpreter: the same positions as dlm_sampling.ops.

`check_positions` runs every rule in pieces of a few columns; these are the pieces of a GPU.
"""

from __future__ import annotations

import math

import pytest
import torch
from dlm_kernels import operators
from torch import Tensor

from dlm_sampling import ops

LONGEST_IN_REGISTERS = {torch.float32: 8192, torch.float64: 4096}


def canvas(dtype: torch.dtype, length: int, rows: int = 3) -> tuple[Tensor, Tensor]:
    """Scores with ties across pieces; the last row has but one score, the first one NaN."""
    generator = torch.Generator().manual_seed(length)
    score = torch.randn(rows, length, generator=generator, dtype=torch.float64)
    score[1:] = score[1:].mul(64).round().div(64)
    score[-1] = 0.25
    score[1, ::7] = -math.inf
    eligible = torch.rand(rows, length, generator=generator) < 0.8
    score[0, 5], eligible[0, 5] = math.nan, False
    eligible[:, -1] = True
    return score.to(dtype), eligible


@pytest.mark.parametrize(("dtype", "length"), [(torch.float32, 8193), (torch.float64, 5000)])
def test_the_k_best_and_those_above_a_threshold(dtype: torch.dtype, length: int) -> None:
    """The last piece holds one column, or many."""
    score, eligible = canvas(dtype, length)
    there = int(eligible[0].sum())
    for k in ([1, 1500, 2000], [there - 1, 0, score.shape[1] + 5]):
        counts = torch.tensor(k)
        expected = ops.top_k_positions(score, eligible, counts)
        assert torch.equal(operators.top_k_positions(score, eligible, counts), expected)
    limit = torch.linspace(-2, 2, score.numel(), dtype=dtype).view(3, -1)
    rule = {"threshold": limit.T.contiguous().T, "at_least": torch.tensor([4500, 3, 1])}
    expected = ops.threshold_positions(score, eligible, **rule)
    assert torch.equal(operators.threshold_positions(score, eligible, **rule), expected)


def test_counts_above_those_of_16_bits() -> None:
    score, eligible = canvas(torch.float32, 90_000, 2)
    k = torch.tensor([40_000, 66_000])
    expected = ops.top_k_positions(score, eligible, k)
    assert torch.equal(operators.top_k_positions(score, eligible, k), expected)


def test_draws_without_replacement() -> None:
    score, eligible = canvas(torch.float32, 4097, 2)
    one = (score[:1], eligible[:1], torch.tensor([2000]), ops.Rng.from_seeds([3]))
    expected = ops.stochastic_positions(*one, stream=2)
    assert torch.equal(operators.stochastic_positions(*one, stream=2), expected)


@pytest.mark.parametrize("gamma", [0.0, 30.0, 1e9])
def test_a_budget_that_ends_inside_ties(gamma: float) -> None:
    score, eligible = canvas(torch.float32, 2049)
    score[0, 5] = 0.0
    cost = (score.abs() * 4).round().clamp(max=8.0) / 16 - 0.1
    cost = torch.where(cost.isfinite(), cost, 0.5)
    expected = ops.budget_positions(score, cost, eligible, gamma)
    assert torch.equal(operators.budget_positions(score, cost, eligible, gamma), expected)
    assert gamma < 1.0 or bool((expected.sum(1) > 20).all())


def test_all_rules_write_in_place_and_count() -> None:
    length = 4000
    score, eligible = canvas(torch.float32, length, 2)
    eligible[0, 5] = True  # NaN
    window = torch.tensor([[0, 3500], [1023, 3073]])
    column = torch.arange(length)
    inside = eligible & (column >= window[:, :1]) & (column < window[:, 1:])
    known = score.nan_to_num(-math.inf)  # as the lowest of all
    k, cost, rng = torch.tensor([700, 40]), torch.full_like(score, 0.25), ops.Rng.from_seeds([1, 2])
    noise = known + rng.gumbel(2, score)
    expected = ops.top_k_positions(noise, inside, k) | (inside & (known >= 1.5))
    expected |= ops.budget_positions(noise, cost, inside, 30.0)
    tokens, drawn = torch.zeros(2, length).long(), torch.ones(2, length).long()
    unknown = eligible.clone()
    counts = operators.unmask_(
        tokens, unknown, drawn, score, eligible, k=k, threshold=1.5, cost=cost, budget=30.0,
        window=window, noise=operators.Noise.of(rng, 2),
    )  # fmt: skip
    assert torch.equal(tokens.bool(), expected)
    assert torch.equal(unknown, eligible & ~expected)
    assert torch.equal(counts.revealed, expected.sum(1))
    assert torch.equal(counts.left, (inside & ~expected).sum(1))
    assert counts.invalid.tolist() == [1, 0]


@pytest.mark.parametrize("dtype", LONGEST_IN_REGISTERS, ids=str)
def test_rows_that_fit_stay_in_registers(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dlm_kernels.positions.launch.long_rows_kernel", {})
    longest = LONGEST_IN_REGISTERS[dtype]
    score, eligible = canvas(dtype, longest + 1, 2)
    k = torch.tensor([2, 5])
    operators.top_k_positions(score[:, :longest], eligible[:, :longest], k)
    with pytest.raises(KeyError):
        operators.top_k_positions(score, eligible, k)

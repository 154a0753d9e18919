"""K3 under the interpreter against dlm_sampling.ops: the same positions, written in place."""

from __future__ import annotations

import math

import pytest
import torch
from dlm_kernels import operators
from torch import Tensor

from dlm_sampling import ops

INF = math.inf


@pytest.fixture(autouse=True, params=["registers", "pieces"])
def held(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every check runs twice: with a row in registers, and with rows in pieces of 16 columns."""
    if request.param == "pieces":
        monkeypatch.setattr("dlm_kernels.positions.launch.HELD", 64)
        monkeypatch.setattr("dlm_kernels.positions.launch.CHUNK", 16)


def canvas(dtype: torch.dtype, length: int = 37) -> tuple[Tensor, Tensor]:
    """Scores with many ties, both zeros, infinities, and NaN where not eligible: three pieces."""
    generator = torch.Generator().manual_seed(length)
    score = torch.randn(6, length, generator=generator).mul(2).round().div(2).to(dtype)
    score[0, :9] = torch.tensor([-0.0, 0.0, -0.0, INF, -INF, 0.0, -INF, INF, -0.0])
    eligible = torch.rand(6, length, generator=generator) < 0.7
    eligible[0, :9] = True
    eligible[1] = False
    eligible[2] = True
    score[1, 3] = math.nan
    return score, eligible


K = torch.tensor([4, 3, -2, 1000, 36, 1])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_top_k_chooses_the_same_positions(dtype: torch.dtype) -> None:
    score, eligible = canvas(dtype)
    expected = ops.top_k_positions(score, eligible, K)
    assert torch.equal(operators.top_k_positions(score, eligible, K), expected)
    assert expected.sum(1).tolist() == [4, 0, 0, int(eligible[3].sum()), int(eligible[4].sum()), 1]


def test_every_k_of_a_row_of_ties() -> None:
    score = torch.tensor([0.0, -0.0, -INF, -INF, 1.0, -1e-45, 0.0, -3e38]).expand(9, 8)
    eligible = torch.ones(9, 8, dtype=torch.bool)
    eligible[:, 0] = False
    found = operators.top_k_positions(score, eligible, torch.arange(9))
    assert torch.equal(found, ops.top_k_positions(score, eligible, torch.arange(9)))
    assert found.sum(1).tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 7]


def test_double_scores_that_differ_in_the_last_digit() -> None:
    values = [1.0, 1.0 + 2**-52, 1.0 - 2**-53, -1.0, -1.0 + 2**-53]
    score = torch.tensor([values], dtype=torch.float64)
    found = [
        operators.top_k_positions(score, score == score, torch.tensor([k]))[0] for k in (1, 2, 4)
    ]
    assert [f.nonzero()[:, 0].tolist() for f in found] == [[1], [0, 1], [0, 1, 2, 4]]


@pytest.mark.parametrize("threshold", [0.5, "row", "position"])
@pytest.mark.parametrize("at_least", [1, torch.tensor([0, 0, 2, 30, 1, 5])])
def test_threshold_chooses_the_same_positions(
    threshold: float | str, at_least: int | Tensor
) -> None:
    score, eligible = canvas(torch.float32)
    row = torch.tensor([0.5, -INF, INF, 1.0, 0.0, 9.0])
    grid = torch.linspace(-1, 1, score.numel()).view(score.shape).T.contiguous().T
    limit = {"row": row, "position": grid}.get(str(threshold), threshold)
    expected = ops.threshold_positions(score, eligible, limit, at_least=at_least)
    found = operators.threshold_positions(score, eligible, limit, at_least=at_least)
    assert torch.equal(found, expected)


def test_views_of_a_larger_canvas() -> None:
    score, eligible = canvas(torch.float32, 64)
    for view in (slice(5, 27), slice(3, 63, 2)):
        some, which = score[:, view], eligible[:, view]
        expected = ops.top_k_positions(some, which & ~some.isnan(), K)
        assert torch.equal(operators.top_k_positions(some, which & ~some.isnan(), K), expected)


@pytest.mark.parametrize("threshold", [None, 0.5])
def test_writes_in_place_and_counts(threshold: float | None) -> None:
    score, eligible = canvas(torch.float32)
    whole = torch.zeros(6, 40, dtype=torch.int64)
    tokens, drawn = whole[:, :37], torch.arange(6 * 37).view(6, 37) + 1
    unknown = eligible | (torch.arange(37) == 36)
    expected = (
        ops.top_k_positions(score, eligible, K)
        if threshold is None
        else ops.threshold_positions(score, eligible, threshold, at_least=K)
    )
    left = unknown & ~expected
    counts = operators.unmask_(tokens, unknown, drawn, score, eligible, k=K, threshold=threshold)
    assert torch.equal(tokens, drawn * expected)
    assert not whole[:, 37:].any()
    assert torch.equal(unknown, left)
    assert torch.equal(counts.revealed, expected.sum(1))
    assert torch.equal(counts.left, (eligible & ~expected).sum(1))
    assert not counts.invalid.any()


def test_nan_scores_are_refused_or_counted() -> None:
    score, eligible = canvas(torch.float32)
    eligible[1, 3] = True
    for op in (ops.top_k_positions, operators.top_k_positions):
        with pytest.raises(ValueError, match="score is NaN at row 1, position 3"):
            op(score, eligible, K)
    tokens, drawn = torch.zeros(2, 6, 37, dtype=torch.int64)
    counts = operators.unmask_(tokens, eligible.clone(), drawn, score, eligible, k=1)
    assert counts.invalid.tolist() == [0, 1, 0, 0, 0, 0]
    assert counts.revealed.tolist() == [1, 1, 1, 1, 1, 1]


@pytest.mark.parametrize("gamma", [0.0, torch.tensor([0.0, 1.0, 2.5, 0.5, 1e9, 3.0])], ids=str)
def test_a_budget_takes_the_same_head(gamma: float | Tensor) -> None:
    score, eligible = canvas(torch.float32)
    score[1, 3] = 0.0
    cost = torch.rand(6, 37, generator=torch.Generator().manual_seed(1)).mul(4).round() / 4 - 0.1
    expected = ops.budget_positions(score, cost, eligible, gamma)
    assert torch.equal(operators.budget_positions(score, cost, eligible, gamma), expected)
    assert expected.any(1).tolist() == eligible.any(1).tolist()


def test_a_budget_that_ends_inside_a_long_tie() -> None:
    """The largest cost comes first: it stays free for all that follow, in the next piece too."""
    score, cost = torch.zeros(1, 37), torch.full((1, 37), 0.125)
    cost[0, 0] = 2.0
    found = operators.budget_positions(score, cost, score == 0, 2.5)
    assert torch.equal(found, ops.budget_positions(score, cost, score == 0, 2.5))
    assert found.nonzero()[:, 1].tolist() == list(range(21))


def source() -> ops.Rng:
    return ops.Rng(torch.tensor([5, -6, 7, 1 << 40, 0, 3]), torch.arange(6), torch.arange(6) * 3)


def test_draws_without_replacement_take_the_same_positions() -> None:
    weight, eligible = canvas(torch.float32)
    weight[0, 7] = weight[0, 3] = 0.0  # no +inf
    rule = {"stream": 3, "sub": 4}
    expected = ops.stochastic_positions(weight.double(), eligible, K, source(), **rule)
    found = operators.stochastic_positions(weight.double(), eligible, K, source(), **rule)
    assert torch.equal(found, expected)
    expected = ops.stochastic_positions(weight, eligible, K, source(), stream=2)
    moved = operators.stochastic_positions(weight, eligible, K, source(), stream=2)
    assert torch.equal(moved, expected)
    assert not torch.equal(moved, found)


def test_all_rules_at_once_inside_a_block() -> None:
    score, eligible = canvas(torch.float32)
    score[1, 3], score[0, 3], score[0, 7] = 0.0, 0.5, 0.5
    cost = score.abs().clamp(max=3.0)
    window = torch.tensor([[0, 9], [5, 5], [3, 30], [36, 37], [0, 37], [-4, 99]])
    column = torch.arange(37)
    inside = eligible & (column >= window[:, :1]) & (column < window[:, 1:])
    noisy = score + source().gumbel(2, score)
    expected = ops.top_k_positions(noisy, inside, K) | (inside & (score >= 1.5))
    expected |= ops.budget_positions(noisy, cost, inside, 0.5)
    tokens, drawn = torch.zeros(6, 37).long(), torch.ones(6, 37).long()
    unknown = eligible.clone()
    counts = operators.unmask_(
        tokens, unknown, drawn, score, eligible, k=K, threshold=1.5, cost=cost, budget=0.5,
        window=window.T.contiguous().T, noise=operators.Noise.of(source(), 2),
    )  # fmt: skip
    assert torch.equal(tokens.bool(), expected)
    assert torch.equal(unknown, eligible & ~expected)
    assert torch.equal(counts.revealed + counts.left, inside.sum(1))


def test_empty_canvases() -> None:
    for shape in ((0, 4), (2, 0)):
        score = torch.zeros(shape)
        found = operators.top_k_positions(score, score == 0, torch.ones(shape[0]).long())
        assert found.shape == shape


def test_what_has_no_kernel_is_said() -> None:
    with pytest.raises(TypeError, match=r"scores are torch.int64"):
        operators.top_k_positions(torch.ones(1, 2).long(), torch.ones(1, 2).bool(), K[:1])


def test_the_operators_are_what_their_schemas_and_fakes_say() -> None:
    from dlm_kernels.positions.launch import positions_rows, unmask_rows_

    score, eligible = (x[:, :5] for x in canvas(torch.float32))
    tests = ("test_schema", "test_faketensor")
    none = (None,) * 8
    torch.library.opcheck(positions_rows, (score, eligible, K, *none, -1), test_utils=tests)
    tokens, drawn = torch.zeros(2, 6, 5, dtype=torch.int64)
    arguments = (tokens, eligible.clone(), drawn, score, eligible, K, score, *none[1:], -1)
    torch.library.opcheck(unmask_rows_, arguments, test_utils=tests)

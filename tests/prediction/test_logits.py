"""Logits of several passes behind one index: the value of each position, from wherever it lies."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dlm_sampling import ops
from dlm_sampling.denoisers import wrap
from dlm_sampling.prediction.logits import PassLogits, gathered, on_demand
from dlm_sampling.prediction.model import Counts, RunModel
from dlm_sampling.prediction.positions import Sites
from dlm_sampling.types import DenoiserOutput, TokenLaw

V, ROWS, LENGTH = 5, 3, 4
X = torch.zeros(ROWS, LENGTH, dtype=torch.int64)
# The logits of a position say which it is: 100 row + 10 column + token.
TABLE = (
    100.0 * torch.arange(ROWS)[:, None, None]
    + 10.0 * torch.arange(LENGTH)[:, None]
    + torch.arange(V)
)


def model(guidance_scale: float = 0.0) -> RunModel:
    denoiser = wrap(lambda input_ids: input_ids, vocab_size=V, mask_token_id=4)
    return RunModel(denoiser, TokenLaw(), Counts.zero(ROWS, X.device), guidance_scale)


def read(found: PassLogits, row: list[int], column: list[int]) -> Tensor:
    sites = Sites(torch.tensor(row) * X.shape[1] + torch.tensor(column), X.shape)
    return on_demand(found.source()).fetch(found.index(sites))


def test_one_pass_over_all_rows() -> None:
    found = PassLogits.of([DenoiserOutput(TABLE)], None, X, model(), None)
    assert found.source() is not TABLE and found.slot is None
    assert read(found, [2, 0], [1, 3])[:, 0].tolist() == [210.0, 30.0]


def test_rows_that_ran_one_after_another() -> None:
    first = PassLogits.of([DenoiserOutput(TABLE[[2]])], torch.tensor([2]), X, model(), None)
    assert read(first, [2], [3])[:, 0].tolist() == [230.0]
    rows = torch.tensor([1, 0])
    both = PassLogits.of([DenoiserOutput(TABLE[rows])], rows, X, model(), first)
    assert read(both, [0, 1, 2], [0, 1, 2])[:, 0].tolist() == [0.0, 110.0, 220.0]


def columns(which: Tensor, rows: list[int]) -> DenoiserOutput:
    """The values of some columns of some rows only."""
    values = TABLE[rows].gather(1, which.unsqueeze(-1).expand(-1, -1, V))
    return DenoiserOutput(values, columns=which)


def test_values_of_some_columns_and_of_all() -> None:
    which = torch.tensor([[3, 1], [0, 2]])
    some = PassLogits.of([columns(which, [0, 1])], torch.tensor([0, 1]), X, model(), None)
    assert read(some, [0, 0, 1], [1, 3, 2])[:, 0].tolist() == [10.0, 30.0, 120.0]
    both = PassLogits.of([DenoiserOutput(TABLE[[2]])], torch.tensor([2]), X, model(), some)
    assert read(both, [1, 2, 0], [0, 3, 3])[:, 0].tolist() == [100.0, 230.0, 30.0]
    with pytest.raises(IndexError, match=r"canvas\.editable only"):
        read(both, [0], [2])


def test_a_pass_that_was_cut_has_no_value_behind_the_cut() -> None:
    cut = PassLogits.of([DenoiserOutput(TABLE[:, :2])], None, X, model(), None)
    assert read(cut, [2], [1])[:, 0].tolist() == [210.0]
    with pytest.raises(IndexError, match=r"canvas\.editable only"):
        read(cut, [0], [2])


@pytest.mark.parametrize("hooked", [False, True])
def test_a_head_is_applied_to_the_rows_that_are_read(hooked: bool) -> None:
    """A plain matrix is read as such; one with a hook is called, so that the hook acts."""
    head, hidden = nn.Linear(2, V).requires_grad_(False), torch.randn(ROWS, LENGTH, 2)
    if hooked:
        head.register_forward_hook(lambda module, inputs, output: output + 1.0)
    with torch.no_grad():
        found = PassLogits.of([DenoiserOutput(hidden, head)], None, X, model(), None)
        source = found.source()
        assert isinstance(source, ops.LogitRows) and (source.head is None) == hooked
        torch.testing.assert_close(read(found, [1], [2]), head(hidden[1, 2])[None])


@pytest.mark.parametrize("head", [None, nn.Identity()])
def test_guidance_extrapolates_from_the_second_pass_to_the_first(head: nn.Module | None) -> None:
    """u + (w + 1) (c - u) with c = u + 2 and w = 1/2 is u + 3."""
    parts = [DenoiserOutput(TABLE + 2.0, head), DenoiserOutput(TABLE, head)]
    found = PassLogits.of(parts, None, X, model(0.5), None)
    torch.testing.assert_close(
        read(found, [1, 2], [3, 0]), torch.stack([TABLE[1, 3], TABLE[2, 0]]) + 3
    )


def test_columns_that_the_network_left_out_are_zero() -> None:
    asked = torch.tensor([[3, 0, 1], [2, 0, 3]])
    every = gathered(DenoiserOutput(TABLE[:2]), asked)
    assert every[:, :, 0].tolist() == [[30.0, 0.0, 10.0], [120.0, 100.0, 130.0]]
    some = gathered(columns(torch.tensor([[3, 1], [0, 2]]), [0, 1]), asked)
    assert some[:, :, 1].tolist() == [[31.0, 0.0, 11.0], [121.0, 101.0, 0.0]]

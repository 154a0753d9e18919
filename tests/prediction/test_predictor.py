"""The predictor: which columns it asks the network for, and what the passes cost."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from dlm_sampling import sample, samplers
from dlm_sampling.denoisers import Denoiser
from dlm_sampling.prediction.predictor import Predictor
from dlm_sampling.types import DenoiserOutput, Pass, TokenLaw

V, MASK, LENGTH = 7, 6, 12
TABLE = torch.randn(LENGTH, V, generator=torch.Generator().manual_seed(3))


class Spy(Denoiser):
    """Gives a fixed table, for the asked columns only or for all, and keeps what it was asked."""

    def __init__(self, whole: bool, **facts: Any) -> None:
        super().__init__(vocab_size=V, mask_token_id=MASK, **facts)
        self.whole = whole
        self.asked: list[Pass] = []

    def forward(self, inputs: Pass) -> DenoiserOutput:
        self.asked.append(inputs)
        rows, width = inputs.tokens.shape
        values = (TABLE[:width] + inputs.tokens.sum(1)[:, None, None] * 0.01).expand(rows, -1, -1)
        if self.whole or inputs.columns is None:
            return DenoiserOutput(values)
        index = inputs.columns.unsqueeze(-1).expand(-1, -1, V)
        return DenoiserOutput(values.gather(1, index), columns=inputs.columns)


def run(model: Spy, **options: Any) -> Any:
    tokens = torch.zeros(2, LENGTH, dtype=torch.int64)
    editable = torch.ones(2, LENGTH, dtype=torch.bool)
    editable[0, :2] = editable[1, :4] = False
    options = {"block_length": 4, "law": TokenLaw(), **options}
    return sample(model, samplers.Ancestral(), tokens, editable, seeds=[1, 2], **options)


def test_a_step_asks_for_the_columns_of_its_block() -> None:
    model = Spy(whole=False)
    run(model)
    widths = {inputs.columns.shape[1] for inputs in model.asked if inputs.columns is not None}
    assert widths == {4}
    assert all(inputs.columns is not None for inputs in model.asked)


@pytest.mark.parametrize("options", [{}, {"causal_blocks": True}, {"guidance_scale": 0.7}])
def test_values_of_some_columns_give_the_tokens_of_whole_canvases(options: dict[str, Any]) -> None:
    some, every = run(Spy(whole=False), **options), run(Spy(whole=True), **options)
    assert torch.equal(some.tokens, every.tokens)
    torch.testing.assert_close(some.logprob, every.logprob)
    assert torch.equal(some.nfe, every.nfe)


def test_rows_that_ignore_padding_give_the_same_from_some_columns() -> None:
    padding = torch.ones(2, LENGTH, dtype=torch.bool)
    padding[0, :1] = False
    found = [
        run(Spy(whole=whole, honours_padding=False), attention_mask=padding)
        for whole in (True, False)
    ]
    assert torch.equal(found[0].tokens, found[1].tokens)


def test_work_counts_columns_and_nfe_counts_passes() -> None:
    """Without hidden columns a pass is one canvas; a block-causal one is what it sees of it."""
    plain = run(Spy(whole=False))
    assert torch.equal(plain.work, plain.nfe.double())
    model = Spy(whole=False)
    causal = run(model, causal_blocks=True)
    seen = torch.zeros(2, dtype=torch.float64)
    for inputs in model.asked:
        assert inputs.rows is not None
        real = torch.ones_like(inputs.tokens) if inputs.attention is None else inputs.attention
        seen.index_add_(0, inputs.rows, real.sum(1).double() / LENGTH)
    torch.testing.assert_close(causal.work, seen)
    assert bool((causal.work < causal.nfe).all())


def test_a_position_outside_of_the_block_is_refused() -> None:
    """A wrong column would give the law of another position without a word."""
    predictor = Predictor.alone(
        Spy(whole=False), TokenLaw(suppressed=(MASK,)), torch.ones(1, LENGTH, dtype=torch.bool)
    )
    predictor.rows = replace(predictor.rows, columns=torch.tensor([[4, 5, 6]]))
    where = torch.zeros(1, LENGTH, dtype=torch.bool)
    where[0, 3] = True
    prediction = predictor(torch.full((1, LENGTH), MASK), torch.ones(1))
    with pytest.raises(IndexError, match=r"outside of the current block: .* canvas.editable only"):
        prediction.log_probs(where)


def test_a_hidden_column_is_refused_and_rows_of_different_horizons_join() -> None:
    """Rows run one after the other see different widths; each keeps its own columns."""
    seen = torch.ones(2, LENGTH, dtype=torch.bool)
    predictor = Predictor.alone(
        Spy(whole=True), TokenLaw(suppressed=(MASK,)), seen, horizon=torch.tensor([6, LENGTH])
    )
    x = torch.zeros(2, LENGTH, dtype=torch.int64)
    for order in ((0, 1), (1, 0)):
        prediction = predictor(x, torch.ones(2))
        for row in order:
            where = torch.zeros(2, LENGTH, dtype=torch.bool)
            where[row, 5] = True
            law = TABLE[5].clone()
            law[MASK] = -torch.inf
            torch.testing.assert_close(prediction.log_probs(where)[0], law.log_softmax(-1))
    where = torch.zeros(2, LENGTH, dtype=torch.bool)
    where[0, 8] = True
    with pytest.raises(IndexError, match="outside of the current block"):
        predictor(x, torch.ones(2)).log_probs(where)


def test_no_prompt_and_no_blocks_asks_for_every_column() -> None:
    model = Spy(whole=False)
    tokens: Tensor = torch.zeros(1, LENGTH, dtype=torch.int64)
    sample(model, samplers.LLaDA(), tokens, tokens == 0, seeds=[1])
    assert all(inputs.columns is None for inputs in model.asked)


@pytest.mark.parametrize("whole", [False, True])
def test_a_short_block_before_the_end_of_the_canvas(whole: bool) -> None:
    """Blocks of 4 and 1 columns with a suffix: the hidden suffix is not asked for."""
    tokens = torch.arange(LENGTH).remainder(MASK).expand(2, -1)
    editable = torch.zeros(2, LENGTH, dtype=torch.bool)
    editable[:, 3:8] = True
    model = Spy(whole)
    out = sample(
        model,
        samplers.create("llada"),
        tokens,
        editable,
        seeds=[1, 2],
        block_length=4,
        causal_blocks=True,
    )
    assert [inputs.tokens.shape[1] for inputs in model.asked] == [7] * 4 + [8]
    assert torch.equal(out.tokens[~editable], tokens[~editable])
    assert torch.equal(out.tokens[:, 3:8], TABLE[3:8, :MASK].argmax(1).expand(2, -1))


def test_a_pass_over_some_columns_is_charged_their_share_of_the_row() -> None:
    """Also where a row is padding but for one column."""
    attention = torch.tensor([[1, 0, 0, 0], [1, 1, 1, 1], [0, 1, 1, 0]]).bool()
    predictor = Predictor.alone(Spy(whole=True), TokenLaw(), attention)
    inputs = Pass(torch.zeros(3, 4).long(), torch.ones(3), attention, rows=torch.arange(3))
    predictor._charge_columns(inputs, torch.tensor([1, 1, 2]))
    assert predictor.model.counts.nfe.tolist() == [1, 1, 1]
    assert predictor.model.counts.work.tolist() == [1.0, 0.25, 1.0]


def test_copies_of_a_row_are_adjacent_and_their_passes_are_those_of_the_row() -> None:
    model = Spy(whole=True)
    seen = torch.ones(2, LENGTH, dtype=torch.bool)
    predictor = Predictor.alone(model, TokenLaw(suppressed=(MASK,)), seen)
    copies = predictor.repeated(3)
    x = torch.arange(6).unsqueeze(1).expand(-1, LENGTH)
    where = torch.zeros(6, LENGTH, dtype=torch.bool)
    where[[0, 2, 3], 1] = True
    copies(x, torch.ones(6)).log_probs(where)
    assert model.asked[0].tokens[:, 0].tolist() == [0, 2, 3]
    assert predictor.nfe.tolist() == [2, 1]
    assert copies.speculation is None and copies.ledger is None


def test_a_planner_is_asked_for_its_rows_alone() -> None:
    """Its logits are those of whole canvases, 0 in other rows."""
    tokens = torch.arange(2 * LENGTH).remainder(MASK).view(2, LENGTH)
    model = Spy(whole=True)
    predictor = Predictor.alone(model, TokenLaw(), torch.ones(2, LENGTH, dtype=torch.bool))
    predictor.rows = replace(predictor.rows, columns=torch.tensor([[4, 5], [6, 7]]))

    def planner(x: Tensor, t: Tensor) -> Tensor:
        return x + t[:, None]

    found = predictor.plan(
        planner, tokens, torch.full((2,), 0.5).double(), torch.tensor([False, True])
    )
    assert not found[0].any() and found.dtype == torch.float64
    assert found[1].tolist() == (tokens[1] + 0.5).tolist()

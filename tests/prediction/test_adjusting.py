"""Penalties and processors: the logits by definition, what they see, and what they leave alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.generation.logits_process import (
    LogitsProcessorList,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
)

from dlm_sampling import generate, ops, replay, sample, samplers, wrap
from dlm_sampling.prediction.adjusting import adjust_of
from dlm_sampling.prediction.positions import Sites
from dlm_sampling.prediction.rows import PassRows
from dlm_sampling.types import TokenLaw

V, MASK, LENGTH = 7, 6, 5
SEED = torch.Generator().manual_seed(3)
TABLE = 2.0 * torch.randn(LENGTH, V, generator=SEED, dtype=torch.float64)
ROWS = torch.tensor([[6, 1, 2, 6, 1], [3, 3, 0, 6, 6]])  # column 0 of the first row is padding
REAL = torch.tensor([[0, 1, 1, 1, 1], [1, 1, 1, 1, 1]]).bool()
FIXED = torch.tensor([[1, 1, 0, 0, 0], [1, 0, 0, 0, 0]]).bool()


def net(input_ids: Tensor) -> Tensor:
    """Logits that depend on the place and on the canvas."""
    shift = 0.1 * input_ids.double().sum(1, keepdim=True)
    return (TABLE[-input_ids.shape[1] :] + shift.unsqueeze(-1)).cos() * 2.0


DENOISER = wrap(net, vocab_size=V, mask_token_id=MASK)


def adjusted(law: TokenLaw, row: int, column: int, logits: Tensor) -> Tensor:
    where = torch.zeros_like(FIXED)
    where[row, column] = True
    rows = PassRows(torch.arange(2), REAL, FIXED)
    adjust = adjust_of(law, ROWS, rows, Sites.of(where))
    assert adjust is not None
    return adjust(logits[None], torch.tensor([0]))[0]


@pytest.mark.parametrize(("row", "column"), [(0, 3), (0, 1), (0, 4), (1, 4), (1, 1)])
def test_penalties_by_definition(row: int, column: int) -> None:
    logits = TABLE[0]
    others = [c for c in range(LENGTH) if c != column and REAL[row, c]]
    anywhere = {int(ROWS[row, c]) for c in others}
    written = {int(ROWS[row, c]) for c in others if not FIXED[row, c]}
    wanted = logits.clone()
    for v in range(V):
        if v in anywhere:
            wanted[v] = logits[v] / 1.5 if logits[v] > 0 else logits[v] * 1.5
        if v in written:
            wanted[v] -= 0.4
    law = TokenLaw(repetition_penalty=1.5, presence_penalty=0.4)
    torch.testing.assert_close(adjusted(law, row, column, logits), wanted)


def test_repetition_is_the_rule_of_transformers_where_the_canvas_is_a_prefix() -> None:
    theirs = RepetitionPenaltyLogitsProcessor(1.3)
    wanted = theirs(ROWS[1:, :4], TABLE[:1])[0]
    law = TokenLaw(repetition_penalty=1.3)
    torch.testing.assert_close(adjusted(law, 1, 4, TABLE[0]), wanted)
    torch.testing.assert_close(adjusted(TokenLaw(logits_processor=theirs), 1, 4, TABLE[0]), wanted)


def test_a_processor_sees_the_ids_left_of_the_drawn_positions_and_nothing_else() -> None:
    seen: list[list[list[int]]] = []

    def processor(ids: Tensor, logits: Tensor) -> Tensor:
        assert logits.shape == (len(ids), V)
        seen.append(ids.tolist())
        return logits

    where = torch.tensor([[0, 0, 1, 0, 1], [0, 1, 0, 0, 0]]).bool()
    rows, sites = PassRows(torch.arange(2), REAL, FIXED), Sites.of(where)
    adjust = adjust_of(TokenLaw(logits_processor=processor), ROWS, rows, sites)
    assert adjust is not None
    adjust(TABLE[:3], torch.arange(3))
    assert seen == [[[1], [3]], [[1, 2, 6]]]  # no padding; places 1 and 3 of their rows


def test_a_processor_that_returns_no_logits_is_refused() -> None:
    for processor, words in (
        (lambda ids, logits: None, "returned a NoneType: must return logits"),
        (lambda ids, logits: logits[:, :2], r"returned shape \(1, 2\): must be \(1, 7\)"),
    ):
        with pytest.raises((TypeError, ValueError), match=words):
            adjusted(TokenLaw(logits_processor=processor), 0, 3, TABLE[0])


LAW: dict[str, Any] = {
    "temperature": 0.9,
    "repetition_penalty": 1.4,
    "presence_penalty": 0.7,
    "typical_p": 0.9,
    "logits_processor": LogitsProcessorList([NoRepeatNGramLogitsProcessor(2)]),
}


@pytest.mark.parametrize("sampler", ["ancestral", "llada", "remdm-cap", "glauber", "planned-self"])
def test_rows_stand_alone(sampler: str) -> None:
    """The padding of a shorter row is no part of it."""
    prompts, law = [[1], [0, 2, 1]], {**LAW, "typical_p": None}
    seen = wrap(net_with_padding, vocab_size=V, mask_token_id=MASK)
    both = generate(seen, prompts, sampler=sampler, seed=[4, 5], max_new_tokens=4, **law)
    alone = generate(seen, prompts[:1], sampler=sampler, seed=[4], max_new_tokens=4, **law)
    assert both.token_ids[0] == alone.token_ids[0]


def net_with_padding(input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    """Logits of real tokens, by their distance from the end."""
    real = torch.ones_like(input_ids) if attention_mask is None else attention_mask.long()
    shift = 0.1 * (input_ids * real).double().sum(1, keepdim=True)
    table = torch.cat((TABLE, TABLE))[-input_ids.shape[1] :]
    return (table + shift.unsqueeze(-1)).cos() * 2.0


@pytest.mark.parametrize("sampler", ["ancestral", "llada-random", "dream-origin"])
def test_a_replay_scores_the_law_that_was_drawn_from(sampler: str) -> None:
    canvas = torch.full((4, LENGTH), MASK)
    canvas[:, 0] = 1
    out = sample(
        DENOISER, samplers.create(sampler), canvas, canvas == MASK, seeds=range(4), steps=3,
        law=TokenLaw(**LAW), return_trajectory=True,
    )  # fmt: skip
    scored = replay(DENOISER, out)
    torch.testing.assert_close(scored.logprob.float(), out.logprob)
    assert not torch.allclose(replay(DENOISER, out, law="model").logprob.float(), out.logprob)


def test_the_law_moves_no_position() -> None:
    """A token law says what is written; when it is written is decided as without it."""
    canvas, editable = torch.full((40, LENGTH), MASK), torch.ones(40, LENGTH, dtype=torch.bool)
    events: list[list[list[int]]] = []
    for law in (TokenLaw(), TokenLaw(**LAW)):
        out = sample(
            DENOISER, samplers.create("ancestral"), canvas, editable, seeds=range(40), law=law,
            steps=3, return_trajectory=True,
        )  # fmt: skip
        assert out.trajectory is not None
        events.append([event.written.nonzero().tolist() for event in out.trajectory.events])
    assert events[0] == events[1]


def test_penalties_of_noise_are_refused() -> None:
    noisy = wrap(net, vocab_size=V, mask_token_id=None)
    for name, none in (("repetition_penalty", 1), ("presence_penalty", 0)):
        with pytest.raises(ValueError, match=rf"{name}=0.5: under uniform noise .* use {none}"):
            generate(noisy, sampler="ancestral", max_new_tokens=3, **{name: 0.5})


def test_a_law_that_no_kernel_has_is_torchs_whatever_is_chosen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DLM_KERNELS", "triton")
    zero = torch.zeros(1, dtype=torch.int64)
    given = {"keys": zero, "positions": zero, "steps": zero}
    with pytest.raises(RuntimeError, match="kernel 'draw' cannot run"):
        ops.draw(TABLE[:1].float(), **given)
    ops.draw(TABLE[:1].float(), law=TokenLaw(typical_p=0.5), **given)
    ops.log_probs(TABLE[:1].float(), adjust=lambda x, i: x)

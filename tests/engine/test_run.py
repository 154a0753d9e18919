"""One step of a run: what a sampler returns is checked, and named where it is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from dlm_sampling import sample, samplers, wrap
from dlm_sampling.engine.checks import check_canvases
from dlm_sampling.engine.request import Request
from dlm_sampling.engine.sample import run_request
from dlm_sampling.ops import top_k_positions

MASK = 4


@dataclass(frozen=True)
class TurnsWrong(samplers.ConfidenceSampler):
    """Write one position per step, and return something else from the third step on."""

    wrong: Any = None

    def positions(self, log_confidence: Tensor, eligible: Tensor) -> Tensor:
        return top_k_positions(log_confidence, eligible, eligible.sum(1).clamp(max=1))

    def step(self, state: Any, canvas: Any, clock: Any, predict: Any, rng: Any) -> Any:
        right = super().step(state, canvas, clock, predict, rng)
        return right if int(clock.step.max()) < 2 else self.wrong(right)


@dataclass(frozen=True)
class AtOnceWrong(TurnsWrong):
    """Return another state from the first step on."""

    state: Any = None

    def step(self, state: Any, canvas: Any, clock: Any, predict: Any, rng: Any) -> Any:
        return self.state, super().step(None, canvas, clock, predict, rng)[1]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda right: None, "returned None"),
        (lambda right: right[1], "returned a Step"),
        (lambda right: (None, right[1], 1), "returned a tuple"),
        (lambda right: (None, right[1]._replace(tokens=None)), "Step.tokens is None"),
        (lambda right: (None, right[1]._replace(unknown=torch.zeros(3).bool())), "has shape"),
        # What follows would be broadcast or cast without an error.
        (lambda right: (None, right[1]._replace(tokens=right[1].tokens[:1])), "has shape"),
        (lambda right: (None, right[1]._replace(logprob=right[1].logprob[:, :1])), "has shape"),
        (lambda right: (None, right[1]._replace(tokens=right[1].tokens.int())), "is torch.int32"),
        (lambda right: (None, right[1]._replace(logprob=right[1].tokens)), "is torch.int64"),
    ],
)
def test_a_step_that_turns_wrong_later_names_the_sampler(wrong: Any, words: str) -> None:
    model = wrap(lambda ids: torch.zeros(*ids.shape, 5), vocab_size=5, mask_token_id=MASK)
    tokens = torch.full((2, 8), MASK)
    with pytest.raises((TypeError, ValueError), match=rf"TurnsWrong\.step.*{words}"):
        sample(model, TurnsWrong(wrong=wrong), tokens, tokens == MASK, seeds=[1, 2])


def test_an_id_outside_of_the_vocabulary_names_the_sampler_and_the_place() -> None:
    def beyond(right: Any) -> Any:
        state, step = right
        return state, step._replace(tokens=step.tokens.masked_fill(step.tokens != MASK, 7))

    model = wrap(lambda ids: torch.zeros(*ids.shape[:2], 5), vocab_size=5, mask_token_id=MASK)
    tokens = torch.full((1, 4), MASK)
    editable = torch.tensor([[False, True, True, True]])
    message = r"TurnsWrong\.step wrote id 7 in batch row 0, column 1: must be 0 to 4"
    with pytest.raises(ValueError, match=message):
        sample(model, TurnsWrong(wrong=beyond), tokens, editable, seeds=[1])
    with pytest.raises(ValueError, match="in batch row 4, column 1"):
        run_request(
            model,
            Request(TurnsWrong(wrong=beyond)),
            check_canvases(model, tokens, editable, None, [1]),
            numbers=[4],
        )


def test_padding_behind_an_end_of_text_may_lie_outside_of_the_vocabulary() -> None:
    """As with a [PAD] that a tokenizer got later: the engine writes it, no sampler does."""

    def ends(ids: Any) -> Any:
        return torch.zeros(*ids.shape, 5).index_fill(2, torch.tensor([3]), 9.0)

    model = wrap(ends, vocab_size=5, mask_token_id=MASK, eos_token_id=3, pad_token_id=10)
    tokens = torch.full((1, 6), MASK)
    out = sample(model, TurnsWrong(), tokens, tokens == MASK, seeds=[1], stop_token_ids=[3])
    assert 10 in out.tokens


@pytest.mark.parametrize(
    ("state", "words"),
    [([1], "holds a list"), (torch.zeros(3), r"shape \[3\]"), (torch.ones(()), "")],
)
def test_a_state_that_cannot_follow_its_rows_names_the_sampler(state: Any, words: str) -> None:
    model = wrap(lambda ids: torch.zeros(*ids.shape, 5), vocab_size=5, mask_token_id=MASK)
    tokens = torch.full((2, 8), MASK)
    sampler = AtOnceWrong(state=state)
    with pytest.raises(
        (TypeError, ValueError), match=rf"AtOnceWrong\.step returned a state.*{words}"
    ):
        sample(model, sampler, tokens, tokens == MASK, seeds=[1, 2])

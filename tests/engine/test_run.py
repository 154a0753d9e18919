"""One step of a run: what a sampler returns is checked, and named where it is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from dlm_sampling import sample, samplers, wrap
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


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda right: None, "returned None"),
        (lambda right: right[1], "returned a Step"),
        (lambda right: (None, right[1], 1), "returned a tuple"),
        (lambda right: (None, right[1]._replace(tokens=None)), "Step.tokens is None"),
        (lambda right: (None, right[1]._replace(unknown=torch.zeros(3).bool())), "has shape"),
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
    with pytest.raises((ValueError, IndexError), match=message):
        sample(model, TurnsWrong(wrong=beyond), tokens, editable, seeds=[1])

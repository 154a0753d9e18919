"""Rows are padded on the left and end with new positions; lengths fit the context."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dlm_sampling import wrap
from dlm_sampling.denoisers import Denoiser
from dlm_sampling.text.endings import Ends
from dlm_sampling.text.rows import PromptRow, build_rows, check_length

V, MASK, PAD = 12, 11, 9


def denoiser(mask_token_id: int | None = MASK, **facts: Any) -> Denoiser:
    return wrap(lambda ids: torch.zeros(*ids.shape, V), vocab_size=V,
                mask_token_id=mask_token_id, **{"pad_token_id": PAD, **facts})  # fmt: skip


ROWS = [PromptRow([1, 2, 3], [False, True, False]), PromptRow([], []), PromptRow([4], [False])]


def test_rows_are_padded_on_the_left_and_end_with_new_positions() -> None:
    made = build_rows(ROWS, [1, 2, 3], denoiser(), [5, 6, 7], "auto").canvases
    assert made.tokens.tolist() == [[1, 2, 3, MASK], [PAD, PAD, MASK, MASK], [4, MASK, MASK, MASK]]
    assert made.editable.long().tolist() == [[0, 1, 0, 1], [0, 0, 1, 1], [0, 1, 1, 1]]
    assert made.attention is not None
    assert made.attention.long().tolist() == [[1, 1, 1, 1], [0, 0, 1, 1], [1, 1, 1, 1]]
    assert made.seeds == (5, 6, 7)


@pytest.mark.parametrize(
    ("facts", "filler"),
    [({"pad_token_id": PAD}, PAD), ({"pad_token_id": None, "eos_token_id": 7}, 7),
     ({"pad_token_id": None}, 0)],
)  # fmt: skip
def test_padding_is_the_pad_id_or_the_end_of_text_or_zero(facts: Any, filler: int) -> None:
    made = build_rows(ROWS, [1, 2, 3], denoiser(**facts), [0, 0, 0], "keep").canvases
    assert made.tokens[1].tolist() == [filler, filler, MASK, MASK]
    bare = build_rows(ROWS, [1, 2, 3], denoiser(None, **facts), [0, 0, 0], "keep").canvases
    assert bare.tokens[1].tolist() == [filler] * 4  # without a mask, new positions hold noise


@pytest.mark.parametrize("eos", ["auto", "keep", "cut", "stop"])
def test_only_completions_of_a_prompt_stop_by_themselves(eos: Any) -> None:
    made = build_rows(ROWS, [1, 2, 3], denoiser(), [0, 0, 0], eos, Ends(frozenset({7})))
    endings = ["keep", "keep", "stop"] if eos == "auto" else [eos] * 3
    assert [bool(end.rules.ids) for end in made.ends] == [ending != "keep" for ending in endings]
    wanted = [ending == "stop" for ending in endings]
    assert isinstance(made.canvases.may_stop, Tensor)
    assert made.canvases.may_stop.tolist() == wanted


def test_lengths_are_checked_against_the_context() -> None:
    check_length(0, 3, 5, 8)
    check_length(0, 3, 5, None)
    for prompt, new, context, message in (
        (0, 0, 8, "Prompt 4 is empty and max_new_tokens=0"),
        (5, 5, 8, "5 tokens \\+ 5 new exceed the context of 8. Shorten the prompt by 2, or ask "
                  "for 3 new tokens."),
        (5, 2, 4, "Shorten the prompt by 3.$"),
        (1, 9, 4, "Ask for at most 3 new tokens."),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            check_length(4, prompt, new, context)

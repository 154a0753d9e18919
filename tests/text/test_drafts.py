"""Drafts of texts and ids, one for all prompts or one each."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from dlm_sampling import generate, wrap
from dlm_sampling.text.drafts import check_draft, read_drafts
from dlm_sampling.text.rows import PromptRow
from tests.tiny import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
SIZE = len(TOKENIZER)
DENOISER = wrap(lambda ids: torch.zeros(*ids.shape, SIZE), vocab_size=SIZE, mask_token_id=1)
NOISY = wrap(lambda ids: torch.zeros(*ids.shape, SIZE), vocab_size=SIZE, mask_token_id=None)
AB: tuple[int, ...] = tuple(TOKENIZER("ab")["input_ids"])


@pytest.mark.parametrize(
    ("start", "wanted"),
    [
        (None, [None, None]),
        ("ab", [AB, AB]),
        (["ab", "b"], [AB, AB[1:]]),
        ([4, 5], [(4, 5), (4, 5)]),
        ([[4, 5], "ab"], [(4, 5), AB]),
        (torch.tensor([[4, 5], [6, 7]]), [(4, 5), (6, 7)]),
        (np.array([4, 5]), [(4, 5), (4, 5)]),
    ],
)
def test_forms_of_drafts(start: Any, wanted: list[Any]) -> None:
    assert read_drafts(start, 2, DENOISER, TOKENIZER) == wanted


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (3.5, "start is a float: must be a text"),
        (["ab"], "start has 1 drafts for 2 prompts"),
        ([[4], [9999]], "start: 9999 is no token id"),
        (["a", "\ud800"], "start="),
    ],
)
def test_what_is_no_draft_is_named(start: Any, words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        read_drafts(start, 2, DENOISER, TOKENIZER)
    with pytest.raises(ValueError, match="needs a tokenizer"):
        read_drafts("ab", 2, DENOISER, None)


def test_a_draft_fits_the_positions_that_are_written() -> None:
    row = PromptRow([3, 1, 4], [False, True, False], draft=(5, 6, 7))
    check_draft(0, row, 2, DENOISER)
    check_draft(0, row, 9, DENOISER)
    with pytest.raises(ValueError, match="3 tokens for 2 positions; ask for max_new_tokens=2"):
        check_draft(0, row, 1, DENOISER)
    with pytest.raises(ValueError, match="3 tokens for 10 positions, and without a mask"):
        check_draft(0, row, 9, NOISY)


def test_positions_default_to_the_length_of_the_draft() -> None:
    out = generate(DENOISER, [[5]], start=[4, 5, 5, 4], t_start=0.5, sampler="llada", seed=0)
    assert out.sequences.shape == (1, 5)
    out = generate(NOISY, [[5]], start=[7, 8], t_start=1e-6, sampler="ancestral", steps=2, seed=0)
    assert out.sequences.shape == (1, 3)

"""Masks beside token ids: tensors, arrays and lists of 0, 1, True and False."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from dlm_sampling.text.masks import mask_rows

WANTED = [[True, False], [False, True]]


@pytest.mark.parametrize(
    "mask",
    [
        WANTED,
        [[1, 0], [0, 1]],
        ((1, 0), (0, 1)),
        torch.tensor(WANTED),
        torch.tensor([[1.0, 0.0], [0.0, 1.0]]),
        np.array(WANTED),
        [torch.tensor([1, 0]), np.array([False, True])],
        iter(WANTED),
        [[torch.tensor(True), np.bool_(False)], [np.int8(0), 1]],
    ],
    ids=lambda mask: type(mask).__name__,
)
def test_every_form_of_a_mask(mask: Any) -> None:
    assert mask_rows("infill", mask, [2, 2]) == WANTED


def test_one_row_may_come_without_the_batch() -> None:
    for mask in ([1, 0], torch.tensor([1, 0]), np.array([True, False])):
        assert mask_rows("infill", mask, [2]) == [[True, False]]
    assert mask_rows("infill", [[1], [0, 1]], [1, 2]) == [[True], [False, True]]
    assert mask_rows("infill", [[]], [0]) == [[]]


@pytest.mark.parametrize(
    ("mask", "kind", "message"),
    [
        ("10", TypeError, "attention_mask: '10' is no mask"),
        (3, TypeError, "attention_mask: 3 is no mask"),
        ({"a": 1}, TypeError, "attention_mask: .* is no mask"),
        ([["1", 0]], TypeError, "attention_mask: '1' is no mask"),
        ([[0.5, 1]], TypeError, "attention_mask: 0.5 is no mask"),
        ([[2, 1]], TypeError, "attention_mask: 2 is no mask"),
        (torch.tensor([[-100.0, 0.0]]), TypeError, "attention_mask: -100.0 is no mask"),
        ([[1, 0], 1], TypeError, "attention_mask: .* is no mask"),
        (torch.ones(1, 1, 2, 2), ValueError, r"attention_mask \(1, 1, 2, 2\): must be \[batch"),
        ([[1, 0], [1, 0]], ValueError, "attention_mask has 2 rows for 1 prompts"),
        ([[1]], ValueError, "attention_mask: row 0 has 1 entries for 2 tokens"),
    ],
)
def test_what_is_no_mask_is_named(mask: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        mask_rows("attention_mask", mask, [2])

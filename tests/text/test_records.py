"""Records: every column of a row comes from that row."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from dlm_sampling import generate, wrap
from dlm_sampling.errors import UsageError
from dlm_sampling.text.prompt_items import PromptItem
from dlm_sampling.text.records import row_record


def logits(input_ids: Tensor) -> Tensor:
    column = torch.arange(input_ids.shape[1]) % 4
    return 9.0 * torch.nn.functional.one_hot(column, 5).expand(*input_ids.shape, 5)


def test_a_record_holds_its_own_row() -> None:
    model = wrap(logits, vocab_size=5, mask_token_id=4)
    out = generate(model, [[1], [2, 3]], max_new_tokens=3, steps=2, seed=[7, 8])
    out = replace(
        out,
        texts=["one", "two"],
        finish_reasons=["stop", "length"],
        logprobs=torch.stack([out.logprobs[0], out.logprobs[1] - 1.0]),
        nfe=torch.tensor([1, 2]),
        work=torch.tensor([1.5, 2.5]).double(),
        steps=torch.tensor([3, 4]),
    )
    assert out.token_ids[0] != out.token_ids[1], "else a wrong row would pass"
    found: dict[str, Any] = row_record(PromptItem([2, 3], name="b"), 4, 1, out, 1)
    assert found == {
        "id": "b",
        "index": 4,
        "sample": 1,
        "prompt": [2, 3],
        "text": "two",
        "token_ids": out.token_ids[1],
        "finish_reason": "length",
        "logprob": float(out.logprobs[1].sum()),
        "nfe": 2,
        "work": 2.5,
        "steps": 4,
        "row_seed": 8,
    }
    assert "id" not in row_record(PromptItem([1]), 0, 0, out, 0)
    with pytest.raises(UsageError, match="no tokenizer"):
        row_record(PromptItem([1]), 0, 0, replace(out, texts=None), 0)

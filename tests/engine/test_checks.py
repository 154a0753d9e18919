"""Canvases are checked once: shapes, types, seeds, and the ids that the model will read."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dlm_sampling import wrap
from dlm_sampling.engine.checks import check_canvases

V = 7
DENOISER = wrap(lambda ids: torch.zeros(*ids.shape, V), vocab_size=V, mask_token_id=6)
TOKENS = torch.tensor([[1, 2, 99], [99, 5, 0]])
EDITABLE = torch.tensor([[False, False, True], [True, False, False]])


def check(**options: Any) -> Any:
    given = {
        "tokens": TOKENS, "editable": EDITABLE, "attention_mask": None, "seeds": [3, 4], **options,
    }  # fmt: skip
    return check_canvases(DENOISER, **given)


def test_what_is_written_over_is_not_looked_at() -> None:
    """99 is no id of the model; it stands where tokens will be written, or at padding."""
    made = check(tokens=TOKENS.int(), editable=EDITABLE.long())
    assert made.tokens.dtype == torch.int64
    assert made.editable.dtype == made.attention.dtype == torch.bool
    assert made.attention.all()
    assert made.seeds == (3, 4)
    assert made.may_stop.tolist() == [True, True]
    padded = TOKENS.clone()
    padded[0, 0] = -5
    mask = torch.tensor([[0, 1, 1], [1, 1, 1]])
    assert torch.equal(check(tokens=padded, attention_mask=mask).attention, mask.bool())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokens": TOKENS[0]}, r"tokens \(3,\) and editable \(2, 3\): both must be"),
        ({"editable": EDITABLE[:, :2]}, r"editable \(2, 2\): both must be \[batch, length\]"),
        ({"tokens": TOKENS.float()}, "tokens are torch.float32: must be token ids"),
        ({"tokens": TOKENS.bool()}, "tokens are torch.bool: must be token ids"),
        ({"seeds": [1]}, "seeds has 1 entries for 2 rows"),
        ({"attention_mask": torch.ones(2, 4)}, r"attention_mask \(2, 4\): must be \(2, 3\)"),
        ({"editable": EDITABLE & False}, rf"tokens\[0, 2\] is 99: must be an id in \[0, {V}\)"),
        ({"tokens": TOKENS - 1, "editable": EDITABLE}, r"tokens\[1, 2\] is -1"),
    ],
)
def test_errors_name_the_argument(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check(**options)

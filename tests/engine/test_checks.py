"""Canvases are checked once: shapes, types, seeds, and the ids that the model will read."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch

from dlm_sampling import (
    AutoDenoiser,
    elbo,
    generate,
    learn_sampler,
    replay,
    sample,
    samplers,
    save_custom_generate,
    uniform_elbo,
    wrap,
)
from dlm_sampling.engine.checks import check_canvases
from dlm_sampling.watermark import detect

V = 7
DENOISER = wrap(lambda ids: torch.zeros(*ids.shape, V), vocab_size=V, mask_token_id=6)
ANCESTRAL = samplers.create("ancestral")
_NONE: Any = None
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
    ("call", "message"),
    [
        (lambda: sample(_NONE, ANCESTRAL, TOKENS, EDITABLE, seeds=[1, 2]), "denoiser is a NoneTyp"),
        (lambda: sample(DENOISER, _NONE, TOKENS, EDITABLE, seeds=[1, 2]), "sampler is a NoneType"),
        (lambda: sample(DENOISER, ANCESTRAL, TOKENS, EDITABLE, seeds=_NONE), "seeds=None: must be"),
        (lambda: generate(_NONE), "denoiser is a NoneType"),
        (lambda: elbo(_NONE, TOKENS), "denoiser is a NoneType"),
        (lambda: elbo(DENOISER, _NONE), "tokens is a NoneType: must be a tensor .batch, length..$"),
        (lambda: elbo(DENOISER, cast("Any", "Once")), "length., for a text tokenizer.text, return"),
        (
            lambda: generate(DENOISER, max_new_tokens=cast("Any", "auto")),
            "or AutoLength.. .dlm_sam",
        ),
        (
            lambda: generate(DENOISER, json_schema={}),
            r"A schema, as Constraint\(json_schema=...\), is",
        ),
        (lambda: uniform_elbo(_NONE, TOKENS), "denoiser is a NoneType"),
        (lambda: replay(DENOISER, _NONE), "run is a NoneType"),
        (lambda: wrap(abs, vocab_size=_NONE, mask_token_id=0), "vocab_size=None: must be"),
        (lambda: learn_sampler(_NONE, steps=4), "denoiser is a NoneType"),
        (lambda: AutoDenoiser.from_pretrained(_NONE), "name_or_path=None: must be a folder, or a"),
        (lambda: save_custom_generate(_NONE), "folder=None: must be the path"),
        (lambda: samplers.create(_NONE), "name=None: must be the name of a sampler"),
        (lambda: samplers.find(_NONE), "name=None: must be the name of a sampler"),
        (lambda: detect(_NONE, 3, vocab_size=V), "token_ids is a NoneType: must be the ids of one"),
        (lambda: detect([[1]], 3, vocab_size=V), "token_ids is a list: must be the ids of one te"),
        (lambda: detect([1], 3, vocab_size=_NONE), "vocab_size=None: must be a whole number"),
    ],
)
def test_none_in_place_of_an_argument_is_told_by_its_name(call: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        call()


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

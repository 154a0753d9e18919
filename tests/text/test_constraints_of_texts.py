"""Constraints of `generate`: texts, ends, fixed words, the law's options, and refusals."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import torch

from dlm_sampling import AutoDenoiser, generate, wrap
from dlm_sampling.constraints import Constraint

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def books() -> Any:
    return AutoDenoiser.from_pretrained("tiny-books")


def test_texts_of_a_batch_match_as_wholes(books: Any) -> None:
    """Prompts of different length, with padding; some texts end at an end-of-text."""
    pattern = r" [a-z ]{4,16}\."
    options: dict[str, Any] = {"max_new_tokens": 8, "steps": 4, "seed": 0, "temperature": 1.0}
    out = generate(
        books, ["Once upon a time", "The"], num_return_sequences=4, constraint=pattern, **options
    )
    assert out.texts is not None
    assert all(re.fullmatch(pattern, text) for text in out.texts)
    assert set(out.finish_reasons) == {"eos", "length"}


def test_a_text_is_json_of_its_schema(books: Any) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    out = generate(
        books, "The number: ", constraint=Constraint(json_schema=schema), max_new_tokens=8, steps=2,
        seed=[1],
    )  # fmt: skip
    assert out.texts is not None
    assert isinstance(json.loads(out.texts[0])["n"], int)


def test_words_between_fixed_words(books: Any) -> None:
    """A text filled in place is constrained as a whole, its fixed words too."""
    mask = books.tokenizer.mask_token
    rule = Constraint(required=["king"], banned=["the "])
    out = generate(
        books, f"A fox saw{mask * 4} and ran.", constraint=rule, sampler="ancestral", seed=[3]
    )
    assert out.texts is not None
    text = out.texts[0]
    assert text.startswith("A fox saw") and "king" in text and "the " not in text
    with pytest.raises(ValueError, match="row 0 has 1 positions to write, and no text"):
        generate(books, f"in the sea{mask}", constraint=rule)


def spelled() -> Any:
    """A denoiser of ids without a tokenizer; 4 ends a text, 5 is the mask."""
    return wrap(
        lambda ids: torch.zeros(*ids.shape, 6), vocab_size=6, mask_token_id=5, eos_token_id=4
    )


def test_what_does_not_go_together_is_refused(books: Any) -> None:
    denoiser, rule = spelled(), Constraint(banned=[[0, 0]])
    with pytest.raises(ValueError, match=r"^stop: a constraint is about the whole text"):
        generate(books, "A", constraint=rule, stop="x")
    with pytest.raises(ValueError, match='give eos="cut" or eos="keep"'):
        generate(denoiser, [[], [1]], constraint=rule, max_new_tokens=3)
    with pytest.raises(ValueError, match="has no tokenizer"):
        generate(denoiser, [[1]], constraint="a", max_new_tokens=3)
    with pytest.raises(TypeError, match="constraint is an int: must be a regular expression"):
        generate(denoiser, [[1]], constraint=3, max_new_tokens=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^constraint: Picard replaces written tokens"):
        generate(denoiser, [[1]], constraint=rule, max_new_tokens=3, sampler="picard")


def test_an_end_that_is_kept_has_only_padding_behind_it() -> None:
    rule = Constraint(banned=[[0, 0]], required=[[1]])
    out = generate(
        spelled(), [[0]] * 40, constraint=rule, max_new_tokens=5, seed=0, eos="keep",
        sampler="ancestral",
    )  # fmt: skip
    ended = [row for row in out.token_ids if 4 in row]
    assert ended and all(set(row[row.index(4) :]) == {4} for row in ended)
    assert all(1 in row for row in out.token_ids)


def test_a_job_tells_its_constraint(books: Any) -> None:
    from dlm_sampling.text.fingerprint import settings
    from dlm_sampling.text.options import GenerateOptions, prepare

    one, other = (
        settings(prepare(books, "A", GenerateOptions(constraint=pattern)))["constraint"]
        for pattern in ("a+", "b+")
    )
    assert one == "Constraint(regex='a+')" != other

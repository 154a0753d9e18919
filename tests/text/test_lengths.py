"""Lengths that the model finds: the rule written out, passes counted, texts as at such a length."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from dlm_sampling import generate, wrap
from dlm_sampling.text.generate import generate_parts
from dlm_sampling.text.lengths import AutoLength
from dlm_sampling.text.options import GenerateOptions, LawOptions, prepare

MASK, END, VOCAB = 4, 3, 5
AUTO = AutoLength(most=20, begin=4, grow=3, confidence=0.5, window=4)
PROMPTS = [[0, 1], [2, 1, 1], [1], [2]]  # the first token says where the text ends


def network(input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    """Ends of text from place 6 t + 3 on, where t is the first token of the row."""
    real = torch.ones_like(input_ids) if attention_mask is None else attention_mask.long()
    place = real.cumsum(1) - 1
    first = input_ids.gather(1, real.argmax(1, keepdim=True))
    logits = torch.zeros(*input_ids.shape, VOCAB)
    logits[..., END] = torch.where(place >= 6 * first + 3, 0.2 + 0.1 * place, -1.5)
    return logits


def model(**facts: Any) -> Any:
    given = {"mask_token_id": MASK, "eos_token_id": END, "honours_padding": True, **facts}
    return wrap(network, vocab_size=VOCAB, **given)


def by_hand(prompt: list[int], auto: AutoLength) -> tuple[int, int]:
    """The length of a text, and the passes to find it."""
    n, passes = auto.begin, 0
    while True:
        passes += 1
        ends = range(max(len(prompt), 6 * prompt[0] + 3), len(prompt) + n)[-auto.window :]
        sure = [1 / (1 + 3 * math.exp(-0.2 - 0.1 * place)) for place in ends]
        if sum(sure) / auto.window >= auto.confidence or n == auto.most:
            return n, passes
        n = min(n + auto.grow, auto.most)


def run(prompts: Any, length: Any, **options: Any) -> Any:
    given = {"sampler": "llada", "temperature": 1.0, "eos": "keep", "steps": 2, **options}
    return generate(model(), prompts, max_new_tokens=length, **given)


@pytest.mark.slow
@pytest.mark.parametrize("auto", [AUTO, AutoLength(most=12, begin=4, grow=3, window=4)])
def test_texts_are_as_long_as_the_model_expects(auto: AutoLength) -> None:
    out = run(PROMPTS, auto, num_return_sequences=2, seed=list(range(8)))
    assert len({by_hand(prompt, auto)[0] for prompt in PROMPTS}) > 1
    for row, ids in enumerate(out.token_ids):
        prompt = PROMPTS[row // 2]
        n, passes = by_hand(prompt, auto)
        assert len(ids) == n
        alone = run([prompt], n, seed=[row])
        assert ids == alone.token_ids[0]
        assert int(out.nfe[row] - alone.nfe[0]) == passes
        columns = sum(len(prompt) + min(4 + 3 * k, auto.most) for k in range(passes))
        assert math.isclose(float(out.work[row] - alone.work[0]), columns / (len(prompt) + n))
        assert float(out.shared[row]) >= (columns / (len(prompt) + n) if row % 2 else 0.0)


@pytest.mark.slow
def test_parts_of_a_call_find_the_same_lengths() -> None:
    law = LawOptions(1.0)
    options = GenerateOptions(
        sampler="llada", max_new_tokens=AUTO, law=law, eos="keep", seed=list(range(4))
    )
    job = prepare(model(), PROMPTS, options)
    whole = run(PROMPTS, AUTO, seed=list(range(4)), steps=None)
    parts = list(generate_parts(job, 3))
    assert [ids for part in parts for ids in part.token_ids] == whole.token_ids
    assert torch.equal(torch.cat([part.nfe for part in parts]), whole.nfe)
    again = run(PROMPTS, AUTO, seed=list(range(4)), steps=None, batch_size=1)
    assert again.token_ids == whole.token_ids


def test_the_context_bounds_the_length() -> None:
    small = model()
    small.max_length = 9
    out = generate(small, [[2, 1]], max_new_tokens=AUTO, sampler="llada", eos="keep", seed=0)
    assert len(out.token_ids[0]) == 7


@pytest.mark.parametrize(
    ("facts", "options", "words"),
    [
        ({}, {"infill": True, "prompts": [[1, MASK]]}, "prompt 0 is filled in place"),
        ({}, {"start": [0, 1]}, "prompt 0 is filled in place or has a draft"),
        ({"eos_token_id": None}, {}, "no id ends one"),
        ({"mask_token_id": None}, {"sampler": "ancestral"}, "has no masks to ask"),
        ({}, {"max_nfe": 9}, "max_nfe=9: AutoLength takes as many"),
    ],
)
def test_what_has_no_length_to_find_is_refused(
    facts: dict[str, Any], options: dict[str, Any], words: str
) -> None:
    given: dict[str, Any] = {"prompts": [[1, 2]], "sampler": "llada", **options}
    with pytest.raises(ValueError, match=words):
        generate(model(**facts), given.pop("prompts"), max_new_tokens=AUTO, **given)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"grow": 0}, "grow=0: must be at least 1"),
        ({"begin": 9, "most": 8}, "begin=9: must be at most most=8"),
        ({"confidence": 0.0}, r"confidence=0\.0: must be in \(0, 1\]"),
    ],
)
def test_numbers_out_of_range_are_named(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        AutoLength(**fields)

"""From the arguments of `generate` to the request of a run: defaults, and who overrides whom."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from dlm_sampling import samplers, wrap
from dlm_sampling.engine.request import BlockRequest
from dlm_sampling.processes import Uniform
from dlm_sampling.text.options import GenerateOptions, LawOptions, default_sampler, prepare
from dlm_sampling.types import TokenLaw

VOCAB, MASK = 6, 5


def logits(input_ids: Tensor) -> Tensor:
    return torch.zeros(*input_ids.shape, VOCAB)


def model(**facts: Any) -> Any:
    return wrap(logits, vocab_size=VOCAB, **{"mask_token_id": MASK, **facts})


class Letters:
    """The least that is taken for a tokenizer."""

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": [ord(letter) % MASK for letter in text]}

    def decode(self, ids: list[int], **_: Any) -> str:
        return "".join(map(str, ids))


def test_a_law_is_changed_where_something_is_given() -> None:
    law = TokenLaw(temperature=0.5, top_k=3)
    assert LawOptions().over(law) == law
    assert LawOptions(temperature=0.0, top_p=0.9).over(law) == TokenLaw(0.0, 3, 0.9)


def test_the_sampler_and_its_law_are_the_default() -> None:
    assert default_sampler(model()) == "llada"
    assert default_sampler(model(mask_token_id=None, process=Uniform())) == "ancestral"
    job = prepare(model(), [[1]], GenerateOptions())
    assert type(job.request.sampler) is samplers.LLaDA
    assert job.request.law == job.request.sampler.law
    warm = prepare(model(), [[1]], GenerateOptions(law=LawOptions(temperature=0.7)))
    assert warm.request.law == replace(job.request.sampler.law, temperature=0.7)
    assert warm.alike is None


def test_rows_are_repeated_next_to_each_other_and_have_their_lengths() -> None:
    options = GenerateOptions(num_return_sequences=2, max_new_tokens=3, seed=[1, 2, 3, 4])
    job = prepare(model(), [[1], [2, 3, 4]], options)
    assert [row.ids for row in job.prompts] == [[1], [1], [2, 3, 4], [2, 3, 4]]
    assert (job.lengths, job.seeds) == ([4, 4, 6, 6], [1, 2, 3, 4])


def test_suppressed_ids_are_added_and_blocks_are_the_models_own() -> None:
    own = model()
    own.block_length = 4
    job = prepare(own, [[1]], GenerateOptions(suppress_tokens=[2, 3]))
    assert job.request.law is not None and {2, 3} <= set(job.request.law.suppressed)
    assert (job.request.blocks.length, job.request.blocks.align) == (4, True)
    asked = GenerateOptions(blocks=BlockRequest(length=2))
    assert prepare(own, [[1]], asked).request.blocks == BlockRequest(length=2)


def test_options_of_a_sampler_need_its_name() -> None:
    named = GenerateOptions(sampler="remdm-cap", sampler_options={"eta": 0.05})
    assert prepare(model(), [[1]], named).request.sampler == samplers.create("remdm-cap", eta=0.05)
    made = GenerateOptions(sampler=samplers.LLaDA(), sampler_options={"order": "entropy"})
    with pytest.raises(ValueError, match="an instance carries its own fields"):
        prepare(model(), [[1]], made)


def test_a_prompt_that_is_filled_in_place_takes_no_stop_string() -> None:
    options = GenerateOptions(stop="x", tokenizer=Letters(), infill=[[False, True, False]])
    with pytest.raises(ValueError, match="Prompt 0 is filled in place"):
        prepare(model(), [[1, MASK, 2]], options)

"""The arguments of `sample`: seeds in any kind of list, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dlm_sampling import sample, samplers
from dlm_sampling.denoisers import wrap
from dlm_sampling.engine.output import SampleOutput

VOCAB, MASK = 5, 4


def logits(input_ids: Tensor) -> Tensor:
    return torch.zeros(*input_ids.shape, VOCAB)


def run(seeds: Any, **options: Any) -> SampleOutput:
    model = wrap(logits, vocab_size=VOCAB, mask_token_id=MASK)
    tokens, editable = torch.zeros(2, 8, dtype=torch.int64), torch.ones(2, 8, dtype=torch.bool)
    return sample(model, samplers.create("ancestral"), tokens, editable, seeds=seeds, **options)


@pytest.mark.parametrize("seeds", [range(3, 5), (3, 4), torch.tensor([3, 4])])
def test_seeds_may_come_in_any_list(seeds: Any) -> None:
    out = run(seeds)
    assert torch.equal(out.tokens, run([3, 4]).tokens)
    assert [type(seed) for seed in out.seeds] == [int, int]


@pytest.mark.parametrize("seeds", [3, "ab", [0.5, 1.5], torch.tensor(3), torch.tensor([0.5, 1.0])])
def test_seeds_that_are_no_whole_numbers(seeds: Any) -> None:
    with pytest.raises(TypeError, match="seeds="):
        run(seeds)


@pytest.mark.parametrize("options", [{"steps": 2.5}, {"block_length": "2"}, {"guidance_scale": ""}])
def test_arguments_of_another_type(options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(TypeError, match=f"{name}="):
        run([1, 2], **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 10**6}, "steps=1000000: must be at most 100000"),
        ({"steps": 2**62}, "steps=4611686018427387904: must be at most"),
        ({"steps": 2**70}, "steps=1180591620717411303424: must be at most"),
        ({"steps_per_block": 10**6}, "steps_per_block=1000000: must be at most"),
        ({"block_length": 2**62}, "block_length=4611686018427387904: must be at most"),
    ],
)
def test_runs_without_a_sensible_end_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run([0, 1], **options)
    assert run([0, 1], steps=64, block_length=2**31 - 1).tokens.max() < MASK

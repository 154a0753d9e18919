"""What is given as a run is read, and one that the denoiser cannot know is refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dlm_sampling import generate, replay, samplers, wrap
from dlm_sampling.likelihood.runs import check_noise, record_of
from dlm_sampling.types import TokenLaw
from tests.samplers.small import run, small_toy


def test_an_output_with_its_rollout_is_that_rollout() -> None:
    toy = small_toy(length=4, vocab_size=9)
    out = generate(
        toy, [[1]], max_new_tokens=3, steps=2, seed=0, sampler="llada-random", temperature=1.0,
        return_rollout=True,
    )  # fmt: skip
    assert out.rollout is not None and record_of(out) is out.rollout
    assert torch.equal(replay(toy, out).logprob, replay(toy, out.rollout).logprob)
    # Beyond all steps nothing is scored.
    assert replay(toy, out, window=(7, 9)).total.tolist() == [0.0]


def test_runs_of_other_noise_and_other_vocabularies_are_refused() -> None:
    toy = small_toy(length=4, vocab_size=9)

    def logits(input_ids: Tensor) -> Tensor:
        return toy.logits(input_ids)

    free = wrap(logits, vocab_size=9, mask_token_id=None)
    noisy = run(free, samplers.Ancestral(), length=4, rows=2, steps=2, law=TokenLaw())
    with pytest.raises(ValueError, match=r"noise without masks, and this denoiser .* knows masks"):
        replay(toy, noisy)
    masked = run(toy, samplers.LLaDA(), length=4, rows=2, steps=2, law=TokenLaw())
    with pytest.raises(ValueError, match="run was on masks, and this denoiser"):
        replay(free, masked)
    small = wrap(logits, vocab_size=2, mask_token_id=1)
    for record in (record_of(masked), masked.trajectory):
        assert record is not None
        with pytest.raises(ValueError, match=r"must be an id in \[0, 2\)"):
            check_noise(small, record)

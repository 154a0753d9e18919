"""A rollout that is built while sampling is that of the trajectory."""

from __future__ import annotations

import pytest

from dlm_sampling import Rollout, generate, replay
from tests.likelihood.test_rollout import same
from tests.samplers.small import small_toy


@pytest.mark.parametrize("name", ["llada", "remdm-cap", "sdar"])
def test_built_while_sampling_it_is_that_of_the_trajectory(name: str) -> None:
    toy = small_toy(length=12, vocab_size=9)
    options = {"steps": 5, "temperature": 1.0, "seed": 2, "block_length": 3, "max_new_tokens": 8}
    rows = {"sampler": name, "num_return_sequences": 3, "causal_blocks": True, "batch_size": 2}
    toy.honours_padding = False
    prompts = [[1], [2, 3, 1]]
    kept = generate(toy, prompts, return_trajectory=True, **options, **rows)  # pyright: ignore
    built = generate(toy, prompts, return_rollout=True, **options, **rows)  # pyright: ignore
    assert built.trajectory is None and built.rollout is not None
    same(built.rollout, Rollout.from_output(kept, model=built.rollout.model))
    ratio = (replay(toy, built.rollout).logprob - built.rollout.logprob).exp()
    assert (ratio - 1).abs().max() <= 1e-6

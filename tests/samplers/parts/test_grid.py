"""Solvers on a grid without a mask: prompts stay, and every row ends at its last step."""

from __future__ import annotations

from typing import Any

import pytest

from dlm_sampling import wrap
from dlm_sampling.samplers import Ancestral, Euler
from dlm_sampling.types import TokenLaw
from tests.samplers.small import run, small_toy


@pytest.mark.parametrize("sampler", [Euler(), Ancestral()])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_a_prompt_stays_in_every_step(sampler: Any, temperature: float) -> None:
    toy = small_toy(length=6, vocab_size=9)
    net = wrap(lambda input_ids: toy.logits(input_ids), vocab_size=9, mask_token_id=None)
    law = TokenLaw(temperature, top_k=4)
    out = run(net, sampler, length=6, rows=8, prompt=[1, 5, 1], steps=4, law=law)
    assert out.trajectory is not None
    for event in out.trajectory.events:
        assert event.tokens[:, :3].tolist() == [[1, 5, 1]] * 8
        assert not event.written[:, :3].any()
        assert event.log_confidence is not None and event.log_confidence[:, 3:].any()
        assert not event.log_confidence[:, :3].any()  # nor is it drawn
    assert len(out.trajectory.events) == 5
    assert not out.trajectory.events[-1].unknown.any()

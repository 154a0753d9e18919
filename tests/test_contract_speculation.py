"""One contract for every sampler: predicting canvases beforehand changes no token."""

from __future__ import annotations

import pytest
import torch

from tests.test_contract import CASES, RAGGED, SEEDS, CountingToy, run, warmth

ROW = slice(2, 3)  # one with a mask in its prompt, and two blocks


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_the_tokens_are_those_without_drafts_in_no_more_rounds(name: str, kind: str) -> None:
    """Rounds and canvases are counted apart."""
    toy, options = CountingToy(), warmth(name)
    plain = run(name, RAGGED[ROW], SEEDS[ROW], kind, **options)
    out = run(name, RAGGED[ROW], SEEDS[ROW], kind, toy, speculate=3, **options)
    assert torch.equal(out.tokens, plain.tokens)
    torch.testing.assert_close(out.logprob, plain.logprob, atol=1e-5, rtol=0)
    assert torch.equal(out.steps, plain.steps)
    assert bool((out.nfe <= plain.nfe).all())
    assert sum(toy.calls) == pytest.approx(float(out.work.sum()))
    assert bool((out.work >= out.nfe).all())

"""What is read of a run: its steps, its padding, and how tokens were drawn."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from dlm_sampling import samplers
from dlm_sampling.likelihood.records import argmax_of, attention_of, trajectory_of
from dlm_sampling.types import Drawn, TokenLaw
from tests.samplers.small import run, small_toy


def test_an_argmax_is_told_and_another_law_is_refused() -> None:
    toy = small_toy(length=5, vocab_size=9)
    out = run(toy, samplers.TauLeaping(t_end=0.5), length=5, rows=3, steps=2, law=TokenLaw())
    found = trajectory_of(out)
    assert found is out.trajectory
    bare = replace(found, attention_mask=None)
    assert torch.equal(attention_of(bare), torch.ones(3, 5).bool())
    last = found.events[-1]
    assert last.drawn is not None
    greedy = last.written & (last.drawn == Drawn.ARGMAX)
    assert greedy.any() and torch.equal(argmax_of(found, last), greedy)
    assert not argmax_of(found, replace(last, drawn=None)).any()
    other = replace(last, drawn=torch.full_like(last.drawn, Drawn.OTHERWISE))
    with pytest.raises(ValueError, match="run was sampled by TauLeaping, which drew the token of"):
        argmax_of(found, other)
    with pytest.raises(ValueError, match="no trajectory: call with return_trajectory=True"):
        trajectory_of(replace(out, trajectory=None))
    nothing: Any = 3
    with pytest.raises(TypeError, match="run is a int"):
        trajectory_of(nothing)

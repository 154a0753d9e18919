"""What is read of a run: its steps, its padding, and how tokens were drawn."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from dlm_sampling import samplers
from dlm_sampling.likelihood.records import argmax_of, attention_of, differences, trajectory_of
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
    told = r"sampled by TauLeaping, which drew the token of .* do not follow from the record"
    with pytest.raises(ValueError, match=told):
        argmax_of(found, other)
    with pytest.raises(
        ValueError,
        match="no trajectory: call with return_trajectory=True, or `generate` with return_rollout",
    ):
        trajectory_of(replace(out, trajectory=None))
    nothing: Any = 3
    with pytest.raises(TypeError, match="run is an int"):
        trajectory_of(nothing)


def test_settings_differ_where_a_field_does() -> None:
    one = TokenLaw(temperature=0.5, top_k=3)
    assert differences(one, replace(one)) == []
    other = replace(one, temperature=0.7)
    assert differences(one, other) == ["temperature (0.5 and 0.7)"]
    assert differences(one, other, "law") == ["law.temperature (0.5 and 0.7)"]
    assert differences(one, None, "law") == [f"law ({one!r} and None)"]


def test_only_tokens_that_the_step_drew_are_asked_how() -> None:
    """Not a position of the prompt, one that was not written, or one that was masked again."""
    toy = small_toy(length=5, vocab_size=9)
    found = trajectory_of(run(toy, samplers.LLaDA(), length=5, rows=2, steps=1, prompt=[1]))
    event = found.events[0]
    assert event.drawn is not None
    written, unknown = torch.ones(2, 5).bool(), torch.zeros(2, 5).bool()
    written[:, 4], unknown[:, 3] = False, True
    for kind, kept in ((Drawn.ARGMAX, True), (Drawn.FROM_LAW, False)):
        drawn = torch.full_like(event.drawn, Drawn.OTHERWISE)
        drawn[:, 1:3] = kind
        some = replace(event, written=written, unknown=unknown, drawn=drawn)
        assert argmax_of(found, some).tolist() == [[False, kept, kept, False, False]] * 2
    swapped = replace(some, rows=torch.tensor([1, 0]))
    own = found.editable.clone()
    own[0, 1] = False
    moved = argmax_of(
        replace(found, editable=own), replace(swapped, drawn=drawn * 0 + Drawn.ARGMAX)
    )
    assert moved[:, 1].tolist() == [True, False], "rows of the batch, not of the step"
    drawn[1, 2] = Drawn.OTHERWISE
    with pytest.raises(ValueError, match=r"row 1, position 2 \(step 0\)"):
        argmax_of(found, replace(some, drawn=drawn))
    with pytest.raises(ValueError, match=r"row 0, position 3 \(step 0\)"):
        argmax_of(replace(found, masked=False), replace(some, drawn=drawn))

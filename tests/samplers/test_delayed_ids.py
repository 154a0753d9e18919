"""Delayed ids: every sampler that has the field writes late positions last; the others refuse it.

    a step writes a position whose drawn token is delayed only if it writes all the others

The network's argmax does not depend on the canvas, so at temperature 0 the draws are known.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import Tensor

from dlm_sampling import sample, samplers, wrap
from dlm_sampling.engine.sample import SampleOutput
from dlm_sampling.samplers import LLaDA, create
from dlm_sampling.samplers.base import DelayingSampler
from dlm_sampling.samplers.sdar import SDAR
from dlm_sampling.types import TokenLaw

MASK, END, LENGTH, ROWS = 5, 4, 9, 3
ENDS = torch.tensor([False, True, True, False, True, True, False, True, False])
OPTIONS: dict[str, dict[str, Any]] = {"remdm-llada": {"loop_steps": 2}}
NAMES = [
    name for name in samplers.available() if isinstance(samplers.create(name), DelayingSampler)
]
DELAYING = [name for name in NAMES if "delayed_ids" in samplers.available()[name].parameters]


def logits_of(ends: Tensor) -> Tensor:
    """The network is sure of the ends, less so of the others, each in another degree."""
    logits = torch.zeros(LENGTH, MASK + 1)
    place = torch.arange(LENGTH)
    logits[place, torch.where(ends, END, place % 4)] = torch.where(ends, 6.0, 1.5) + 0.2 * place
    return logits


def run(name: str, ends: Tensor, steps: int | None = None, **options: Any) -> SampleOutput:
    logits = logits_of(ends)
    denoiser = wrap(
        lambda ids: logits.expand(len(ids), -1, -1), vocab_size=MASK + 1, mask_token_id=MASK
    )
    return sample(
        denoiser,
        create(name, **OPTIONS.get(name, {}), **options),
        torch.full((ROWS, LENGTH), MASK),
        torch.ones(ROWS, LENGTH).bool(),
        seeds=list(range(ROWS)),
        steps=steps,
        law=TokenLaw(temperature=0.0),
        return_trajectory=True,
    )


def out_of_turn(out: SampleOutput) -> int:
    """Steps that write an end and leave a position unknown that is none."""
    assert out.trajectory is not None
    return sum(
        bool((event.written & ~event.unknown & ENDS)[row].any())
        and bool((event.unknown & ~ENDS)[row].any())
        for b in range(ROWS)
        for event, row in out.trajectory.steps(b)
    )


@pytest.mark.parametrize("steps", [2, 4, LENGTH])
@pytest.mark.parametrize("name", DELAYING)
def test_delayed_tokens_are_written_last(name: str, steps: int) -> None:
    out = run(name, ENDS, steps, delayed_ids=(END,))
    assert out_of_turn(out) == 0
    plain = run(name, ENDS, steps)
    assert torch.equal(out.tokens, plain.tokens)
    assert not bool((out.tokens == MASK).any())


@pytest.mark.parametrize("name", DELAYING)
def test_without_the_ids_the_ends_come_early(name: str) -> None:
    """The network is surer of them, so the test above would not pass by itself."""
    assert out_of_turn(run(name, ENDS, LENGTH)) > 0


@pytest.mark.parametrize("name", DELAYING)
def test_where_all_are_delayed_the_rule_is_the_usual_one(name: str) -> None:
    everywhere = torch.ones(LENGTH).bool()
    late, plain = (run(name, everywhere, 4, delayed_ids=ids) for ids in ((END,), ()))
    assert late.trajectory is not None
    assert plain.trajectory is not None
    pairs = zip(late.trajectory.events, plain.trajectory.events, strict=True)
    assert all(torch.equal(a.tokens, b.tokens) for a, b in pairs)


def test_samplers_have_the_field_where_positions_are_chosen_by_draws() -> None:
    """Also under the names of functions, but for orders that read no token."""
    assert set(NAMES) - set(DELAYING) == {"llada-random", "sdar-sequential"}
    assert {"llada", "fast-dllm", "dinfer-hierarchy", "klass", "sdar", "llada2.1"} <= {*DELAYING}
    for name, entry in samplers.available().items():
        if name not in DELAYING:
            assert "delayed_ids" not in entry.parameters
            with pytest.raises(TypeError, match="delayed_ids"):
                create(name, delayed_ids=(END,))


@pytest.mark.parametrize("name", DELAYING)
def test_with_delayed_ids_the_positions_depend_on_the_draws(name: str) -> None:
    assert not create(name, delayed_ids=(END,)).exact


def test_the_field_comes_by_name_and_holds_ids() -> None:
    (field,) = [field for field in fields(LLaDA) if field.name == "delayed_ids"]
    assert field.kw_only
    for wrong, message in (
        (4, "must be a tuple"),
        ((1.5,), "a whole number"),
        ((-1,), "at least 0"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            create("fast-dllm", delayed_ids=wrong)
    with pytest.raises(ValueError, match="delayed_ids beside order='random': must be empty"):
        LLaDA("random", delayed_ids=(END,))
    with pytest.raises(ValueError, match="delayed_ids beside strategy='sequential'"):
        SDAR("sequential", delayed_ids=(END,))

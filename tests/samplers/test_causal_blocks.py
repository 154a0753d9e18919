"""Ragged rows in aligned, causal blocks, and beside a planner: a row is a row alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dlm_sampling.denoisers import wrap
from dlm_sampling.engine.sample import SampleOutput, sample
from dlm_sampling.samplers import P2, create
from dlm_sampling.types import Sampler, TokenLaw
from tests.test_contract import MASK, RAGGED, VOCAB, WIDTH, CountingToy, canvas, denoiser

NAMES = [
    "bd3lm",
    "block-refinement",
    "llada2.1",
    "p2",
    "rdm-conditional",
    "sdar",
    "sdar-static",
    "sdar-sequential",
]
Row = tuple[list[int], int]


def decode(
    sampler: Sampler[Any], rows: list[Row], seeds: list[int], **options: Any
) -> SampleOutput:
    tokens, editable, attention = canvas(rows, WIDTH if len(rows) > 1 else None)
    out = sample(
        denoiser(CountingToy()),
        sampler,
        tokens,
        editable,
        attention_mask=attention,
        seeds=seeds,
        law=TokenLaw(temperature=0.9),
        **options,
    )
    assert torch.equal(out.tokens[~editable], tokens[~editable])
    assert not bool((out.tokens == MASK)[editable].any())
    return out


def assert_rows_are_rows_alone(sampler: Sampler[Any], **options: Any) -> None:
    together = decode(sampler, RAGGED, [1, 2, 3, 4], **options)
    for b, row in enumerate(RAGGED):
        alone = decode(sampler, [row], [b + 1], **options)
        length = alone.tokens.shape[1]
        assert torch.equal(together.tokens[b, -length:], alone.tokens[0])
        assert int(together.nfe[b]) == int(alone.nfe[0])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("block", "steps"), [(4, 3), (5, 2), (3, 7), (None, 4)])
def test_ragged_rows_in_causal_blocks(name: str, block: int | None, steps: int) -> None:
    assert_rows_are_rows_alone(
        create(name),
        block_length=block,
        steps_per_block=steps,
        align_blocks=True,
        causal_blocks=True,
    )


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("shown", ["merged", "proposal"])
def test_ragged_rows_with_a_planner(shown: Any, causal: bool) -> None:
    """The planner sees the rows, padding and horizon of the model; only the model is guided."""
    for honours in (True, False):
        toy = CountingToy()
        toy.e, toy.p = toy.e.roll(3, 0), toy.p.roll(5, 0)
        planner = wrap(toy, vocab_size=VOCAB, mask_token_id=MASK, honours_padding=honours)
        sampler = P2(planner=planner, planner_input=shown)
        blocks: dict[str, Any] = {"align_blocks": True, "causal_blocks": True} if causal else {}
        assert_rows_are_rows_alone(sampler, steps=6, block_length=5, guidance_scale=0.5, **blocks)


def test_the_planner_is_charged_to_its_rows() -> None:
    """NFE: two per guided forward of the model, one per forward of the planner."""
    model, toy = CountingToy(), CountingToy()
    planner = wrap(toy, vocab_size=VOCAB, mask_token_id=MASK, honours_padding=True)
    tokens, editable, attention = canvas(RAGGED)
    out = sample(
        denoiser(model),
        P2(planner=planner),
        tokens,
        editable,
        attention_mask=attention,
        seeds=[1, 2, 3, 4],
        steps=4,
        guidance_scale=1.0,
    )
    assert sum(toy.calls) == 4 * (4 - 2)
    assert sum(model.calls) == 2 * 4 * 4
    assert int(out.nfe.sum()) == sum(model.calls) + sum(toy.calls)

"""Losses of pairs: DPO's formula, bounds with shared masks, and chains of uniform noise."""

from __future__ import annotations

import math

import pytest
import torch

from dlm_sampling import Rollout, replay, samplers, wrap
from dlm_sampling.rl import d3po_loss, dpo_loss, vrpo_loss
from dlm_sampling.types import TokenLaw
from tests.samplers.small import run, small_toy

LENGTH = 5


def test_the_loss_of_pairs_is_that_of_its_formula() -> None:
    value = dpo_loss(*(torch.tensor([x]) for x in (-1.0, -2.0, -1.5, -1.0)), beta=0.2)
    margin = 0.2 * ((-1 + 1.5) - (-2 + 1))
    assert abs(float(value) + math.log(1 / (1 + math.exp(-margin)))) < 1e-6
    with pytest.raises(ValueError, match=r"beta=0\.0: must be above 0"):
        dpo_loss(*[torch.zeros(1)] * 4, beta=0.0)


def test_equal_models_have_the_loss_of_a_coin() -> None:
    """Shared masks: the difference of the bounds is exactly 0, whatever was drawn."""
    toy = small_toy(length=LENGTH, vocab_size=9)
    texts = torch.randint(8, (2, 3, LENGTH), generator=torch.Generator().manual_seed(0))
    answer = torch.ones(3, LENGTH).bool()
    loss = vrpo_loss(
        toy, toy, *texts, preferred_editable=answer, rejected_editable=answer, seed=1, n=2
    )
    assert torch.equal(loss, torch.full_like(loss, math.log(2)))
    other = small_toy(seed=1, length=LENGTH, vocab_size=9)
    loss = vrpo_loss(
        other, toy, *texts, preferred_editable=answer, rejected_editable=answer, seed=1, n=2
    )
    assert (loss - math.log(2)).abs().min() > 1e-3


def test_chains_of_uniform_noise_are_compared_exactly() -> None:
    first, second = (small_toy(seed=s, length=LENGTH, vocab_size=9) for s in (0, 1))
    nets = [
        wrap(lambda input_ids, toy=toy: toy.logits(input_ids), vocab_size=9, mask_token_id=None)
        for toy in (first, second)
    ]
    policy, reference = nets
    sampler = samplers.TauLeaping(noise_removal="sample")
    pair = [
        Rollout.from_output(
            run(policy, sampler, length=LENGTH, rows=2, steps=4, seed=seed, law=TokenLaw())
        )
        for seed in (0, 1)
    ]
    loss = d3po_loss(policy, policy, *pair)
    assert torch.equal(loss, torch.full_like(loss, math.log(2)))
    drawn = [rollout.total for rollout in pair]
    known = [replay(reference, rollout).total for rollout in pair]
    expected = dpo_loss(*drawn, *known)
    assert (d3po_loss(policy, reference, *pair) - expected).abs().max() < 1e-4

"""The gradient of a reward of log-laws: its formula, its half of the run, its plain limit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dlm_sampling import sample, samplers
from dlm_sampling.guidance import RewardGradient
from tests.guidance.toys import CANVASES, EXACT_P, LENGTH, MASK, S, log_probs

SLOPES = torch.randn(LENGTH, S + 1, generator=torch.Generator().manual_seed(4))


def reward(log_p: Tensor) -> Tensor:
    """Its gradient is SLOPES p, as far as a table of logits is a law."""
    return (log_p.exp().clamp(max=2.0) * SLOPES).sum((1, 2))


def test_laws_are_tilted_by_the_clipped_gradient() -> None:
    guide = RewardGradient(reward, 3.0, 5.0, until=0.1, clip=0.2)
    found = log_probs(guide, EXACT_P, CANVASES, t=0.25).exp()
    masks = CANVASES == MASK
    p, slope = EXACT_P.probs(CANVASES)[masks], SLOPES.double().expand(len(CANVASES), -1, -1)[masks]
    h = 3.0 + 2.0 * 0.75
    weights = p * (h * (slope * p).clamp(-0.2, 0.2)).exp()
    weights[:, MASK] = 0.0
    torch.testing.assert_close(found, weights / weights.sum(1, keepdim=True), atol=1e-6, rtol=1e-5)
    late = log_probs(guide, EXACT_P, CANVASES, t=0.05)
    assert torch.equal(late, log_probs(None, EXACT_P, CANVASES))


def test_no_strength_is_the_plain_run() -> None:
    empty = torch.zeros(20, LENGTH, dtype=torch.int64)
    for guide in (RewardGradient(reward, 0.0, 0.0), RewardGradient(lambda p: p.sum((1, 2)) * 0)):
        plain, guided = (
            sample(
                EXACT_P,
                samplers.create("ancestral"),
                empty,
                empty == 0,
                seeds=range(20),
                steps=4,
                guidance=g,
            )
            for g in (None, guide)
        )
        assert torch.equal(plain.tokens, guided.tokens)
        assert torch.equal(plain.nfe, guided.nfe)


def test_a_reward_of_the_text_is_raised() -> None:
    """The share of token 0 goes up, and rows do not see each other."""

    def zeros(log_p: Tensor) -> Tensor:
        return log_p.softmax(-1)[..., 0].sum(1)

    empty = torch.zeros(200, LENGTH, dtype=torch.int64)
    given: dict[str, Any] = {"steps": 6}
    sampler = samplers.create("ancestral")
    plain, guided = (
        sample(EXACT_P, sampler, empty, empty == 0, seeds=range(200), guidance=g, **given)
        for g in (None, RewardGradient(zeros, until=0.0))
    )
    shares = [float((out.tokens == 0).double().mean()) for out in (plain, guided)]
    assert shares[1] > shares[0] + 0.2
    alone = sample(
        EXACT_P, sampler, empty[:1], empty[:1] == 0, seeds=[7],
        guidance=RewardGradient(zeros, until=0.0), **given,
    )  # fmt: skip
    assert torch.equal(alone.tokens[0], guided.tokens[7])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"reward": 1}, "reward is an int: must be a function"),
        ({"until": 1.0}, r"until=1.0: must be in \[0, 1\)"),
        ({"clip": 0.0}, "clip=0.0: must be above 0"),
        ({"final": float("inf")}, "final=inf: must be finite"),
    ],
)
def test_what_is_no_reward_is_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        RewardGradient(**{"reward": reward, **options})

"""Anchored posterior: rate 0, an operator that observes a position, and quantised expectations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dlm_sampling import sample, samplers
from dlm_sampling.guidance import AnchoredPosterior
from dlm_sampling.guidance.anchored import quantised
from dlm_sampling.testing import EnumerableDenoiser
from dlm_sampling.types import TokenLaw
from tests.guidance.toys import joint

JOINT = joint(5, 2)
PAIR = EnumerableDenoiser(JOINT)
SEEN = 2  # the token that was observed at the first position


def loss(codes: Tensor) -> Tensor:
    """|y - A(x)|^2 of an operator that shows the first position as it is."""
    wanted = torch.nn.functional.one_hot(torch.tensor(SEEN), codes.shape[-1]).to(codes)
    return (codes[:, 0] - wanted).square().sum(1)


def run(guide: Any, count: int, name: str = "llada", **options: Any) -> Any:
    empty = torch.zeros(count, 2, dtype=torch.int64)
    options = {"seeds": range(count), "law": TokenLaw(), **options}
    denoiser = options.pop("denoiser", PAIR)
    return sample(denoiser, samplers.create(name), empty, empty == 0, guidance=guide, **options)


@pytest.mark.parametrize("seed", range(4))
def test_an_observed_position_is_infilling_at_temperature_0(seed: int) -> None:
    """It holds what was observed, and what is written after it is the best given that."""
    law, guide = joint(seed, 2), AnchoredPosterior(loss, rate=4.0, gradient_steps=20)
    options: dict[str, Any] = {"law": TokenLaw(temperature=0.0), "return_trajectory": True}
    for name in ("llada", "sdar-sequential"):
        out = run(guide, 1, name, denoiser=EnumerableDenoiser(law), **options)
        assert int(out.tokens[0, 0]) == SEEN
        anchored = bool(out.trajectory.events[0].written[0, 0])
        assert int(out.tokens[0, 1]) == int((law[SEEN] if anchored else law.sum(0)).argmax())
        assert anchored or name == "llada"


def test_probability_moves_to_what_was_observed() -> None:
    before, after = (
        torch.bincount(run(guide, 400).tokens[:, 0], minlength=3)[SEEN]
        for guide in (None, AnchoredPosterior(loss, rate=4.0, gradient_steps=20))
    )
    assert int(after) > int(before) + 50


def test_rate_0_is_the_plain_run_and_rows_stand_alone() -> None:
    for name in ("llada", "remdm-cap"):
        for guide in (AnchoredPosterior(loss, rate=0.0), AnchoredPosterior(loss, gradient_steps=0)):
            assert torch.equal(run(guide, 20, name).tokens, run(None, 20, name).tokens)
    guide = AnchoredPosterior(loss, rate=2.0)
    together, alone = run(guide, 8), run(guide, 1, seeds=[5])
    assert torch.equal(together.tokens[5], alone.tokens[0])
    assert not torch.equal(together.tokens, run(None, 8).tokens)


def test_expectations_are_quantised_with_the_gradient_of_the_mean() -> None:
    codes = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 3.0]])
    mean = torch.tensor([[[0.6, 0.1], [0.2, 2.0]]], requires_grad=True)
    found = quantised(mean, codes)
    assert found.tolist() == [[[1.0, 0.0], [0.0, 3.0]]]
    (found * torch.tensor([2.0, 5.0])).sum().backward()
    assert mean.grad is not None and mean.grad.tolist() == [[[2.0, 5.0], [2.0, 5.0]]]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"loss": 1}, "loss is an int: must be a function"),
        ({"rate": -1.0}, "rate=-1.0: must be finite and >= 0"),
        ({"gradient_steps": -1}, "gradient_steps=-1: must be at least 0"),
    ],
)
def test_what_is_no_guidance_is_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        AnchoredPosterior(**{"loss": loss, **options})

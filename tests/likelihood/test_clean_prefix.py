"""Blocks scored beside the finished text: values, gradients and columns of whole canvases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dlm_sampling import AutoDenoiser, generate, replay
from dlm_sampling.denoisers import Denoiser

MODELS = Path(__file__).parents[1] / "fixtures" / "models"
PROMPTS = [[5, 6, 7, 8, 9], [4, 4], [9, 8, 7, 6, 5, 4, 3, 2]]


def sdar() -> Denoiser:
    found = AutoDenoiser.from_pretrained(MODELS / "sdar", block_length=4)
    return found.to(dtype=torch.float64)


def run(denoiser: Denoiser, sampler: str = "llada", **options: Any) -> Any:
    out = generate(
        denoiser, PROMPTS, sampler=sampler, max_new_tokens=11, steps=6, temperature=1.0, seed=3,
        eos="keep", return_rollout=True, **options,
    )  # fmt: skip
    assert out.rollout is not None
    return out


@pytest.mark.slow
@pytest.mark.parametrize("shrink", [1, 3])
def test_values_and_gradients_are_those_of_whole_canvases(shrink: int) -> None:
    denoiser = sdar()
    out, weights = run(denoiser), list(denoiser.module.parameters())  # type: ignore[union-attr]
    grads: list[list[torch.Tensor]] = []
    found: list[Any] = []
    for cache in ("auto", "none"):
        for weight in weights:
            weight.grad = None
            weight.requires_grad_(True)
        scored = replay(
            denoiser, out.rollout, cache=cache, grad=True, shrink=shrink, entropy=True,
            batch_size=2,
        )  # fmt: skip
        scored.total.sum().backward()
        grads.append([torch.zeros(()) if w.grad is None else w.grad.clone() for w in weights])
        found.append(scored)
    auto, none = found
    torch.testing.assert_close(auto.logprob, none.logprob, atol=1e-9, rtol=0)
    torch.testing.assert_close(auto.entropy, none.entropy, atol=1e-9, rtol=0)
    # The norms of transformers compute in float32, forward and back.
    torch.testing.assert_close(grads[0], grads[1], atol=2e-6, rtol=1e-4)
    assert torch.equal(auto.nfe, none.nfe + 1)
    assert torch.equal(none.work, none.nfe.double())
    # One canvas for the texts, and 4 columns a step at most if none spans two blocks.
    lengths = torch.tensor([len(prompt) + 11 for prompt in PROMPTS]).double()
    if shrink == 1:
        assert bool((auto.work <= 1 + 4 * none.nfe / lengths).all())
        torch.testing.assert_close(auto.logprob.float(), out.logprobs.float(), atol=1e-5, rtol=0)
        assert bool((auto.work < none.work).all())


@pytest.mark.slow
def test_a_run_that_revises_is_scored_on_its_own_canvases() -> None:
    denoiser = sdar()
    out = run(denoiser, "remdm-cap")
    auto, none = (replay(denoiser, out.rollout, cache=cache) for cache in ("auto", "none"))
    torch.testing.assert_close(auto.position_logprob, none.position_logprob, atol=1e-9, rtol=0)


def test_another_name_is_refused() -> None:
    with pytest.raises(ValueError, match="cache='all'"):
        replay(sdar(), run(sdar()).rollout, cache="all")  # type: ignore[arg-type]

"""Blocks scored beside the finished text: values, gradients and columns of whole canvases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dlm_sampling import AutoDenoiser, elbo, generate, replay, rl
from dlm_sampling.caches import PrefixCache
from dlm_sampling.denoisers import Denoiser
from dlm_sampling.likelihood.mask_plans import SCHEMES, MaskPlan

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


TEXTS = torch.randint(3, 20, (3, 11), generator=torch.Generator().manual_seed(5))
REAL = torch.tensor([[1] * 11, [0] * 3 + [1] * 8, [1] * 11]).bool()
SCORED = torch.tensor([[0] * 6 + [1] * 5, [0] * 3 + [1] * 8, [0] * 5 + [1, 1] + [0] * 4]).bool()
TEXT: dict[str, Any] = {"tokens": TEXTS, "editable": SCORED, "attention_mask": REAL}


@pytest.fixture(scope="module")
def model() -> Denoiser:
    return sdar()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_of_the_bound_keeps_its_values(model: Denoiser, scheme: Any) -> None:
    size = 64 if scheme == "enumerate" else 2
    auto, none = (
        elbo(model, **TEXT, scheme=scheme, seed=1, cache=cache, batch_size=size)
        for cache in ("auto", "none")
    )
    torch.testing.assert_close(auto.terms, none.terms, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(auto.logprob, none.logprob, atol=1e-9, rtol=1e-9)
    assert torch.equal(none.work, none.nfe.double())
    assert bool((auto.work <= none.work).all()) and bool((auto.work < none.work).any())
    assert bool((auto.nfe - none.nfe <= 1).all())


@pytest.mark.slow
def test_the_columns_of_a_bound_counted_by_hand(model: Denoiser) -> None:
    """Blocks of 4: the canvases of row 0 begin in blocks 1 and 2, so that one block is kept."""
    masks = torch.zeros(3, 3, 11, dtype=torch.bool)
    masks[0, 0, 6] = masks[1, 0, 10] = True
    masks[0, 1, 3:5] = True  # row 1, first column 3: one canvas, from its block 0 to block 0
    masks[1, 2, 5] = masks[2, 2, 5] = True  # both in block 1
    plan = MaskPlan(masks, torch.ones(3, 3, dtype=torch.float64))
    found = elbo(model, **TEXT, masks=plan, grad=True)
    wanted = elbo(model, **TEXT, masks=plan, cache="none", grad=True)
    torch.testing.assert_close(found.terms, wanted.terms, atol=1e-9, rtol=0)
    assert found.nfe.tolist() == [3, 1, 3] and wanted.nfe.tolist() == [2, 1, 2]
    counted = [(4 + 4 + 7) / 11, 4 / 8, (4 + 4 + 4) / 11]
    assert found.work.tolist() == pytest.approx(counted)
    weight = next(iter(model.module.parameters()))  # type: ignore[union-attr]
    grads = [torch.autograd.grad(part.value.sum(), weight)[0] for part in (found, wanted)]
    torch.testing.assert_close(*grads, atol=2e-6, rtol=1e-4)


@pytest.mark.slow
def test_a_shift_computes_the_column_in_front_of_the_noised_blocks() -> None:
    """A position is predicted by the state before it, here that of the clean block in front."""
    shifted = sdar()
    shifted.shift = 1
    masks = torch.zeros(2, 3, 11, dtype=torch.bool)
    masks[0, 0, 8] = masks[1, 0, 8] = True  # the first column of block 2, after two clean ones
    masks[0, 1, 3:5] = True  # row 1, first column 3: its first block has no column in front
    masks[0, 2, 5] = masks[1, 2, 6] = True  # both in block 1, after one clean block
    plan = MaskPlan(masks, torch.ones(2, 3, dtype=torch.float64))
    found = elbo(shifted, **TEXT, masks=plan)
    wanted = elbo(shifted, **TEXT, masks=plan, cache="none")
    torch.testing.assert_close(found.terms, wanted.terms, atol=1e-9, rtol=0)
    counted = [(8 + 2 * (3 + 1)) / 11, 4 / 8, (4 + 2 * (4 + 1)) / 11]
    assert found.work.tolist() == pytest.approx(counted)


@pytest.mark.slow
def test_the_estimators_for_policy_gradients_keep_their_values(model: Denoiser) -> None:
    for estimate, options in (
        (rl.mean_field_logprob, {"prompt_masking": 0.5}),  # masks that are not scored
        (rl.coupled_logprob, {}),
        (rl.one_level_logprob, {"level": 0.5}),
        (rl.upper_bound, {"n": 3}),
    ):
        auto, none = (
            estimate(model, **TEXT, seed=2, cache=cache, **options)  # type: ignore[operator]
            for cache in ("auto", "none")
        )
        torch.testing.assert_close(auto, none, atol=1e-9, rtol=0)


def test_another_name_is_refused(model: Denoiser) -> None:
    with pytest.raises(ValueError, match="cache='all'"):
        replay(model, run(model).rollout, cache="all")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"cache='prefix': is approximate: its laws .* Exact are"):
        replay(model, run(model).rollout, cache="prefix")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"cache=PrefixCache\(.*is approximate"):
        elbo(model, **TEXT, cache=PrefixCache())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="cache='block': is what 'auto' does here"):
        elbo(model, **TEXT, cache="block")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="cache='block'"):
        rl.coupled_logprob(model, **TEXT, seed=0, cache="block")  # type: ignore[arg-type]

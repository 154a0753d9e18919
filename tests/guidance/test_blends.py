"""Products, contrastive pairs and stitched models: closed forms, passes and plain limits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dlm_sampling import sample, samplers
from dlm_sampling.guidance import Contrast, Product, Stitch
from dlm_sampling.processes import Uniform
from dlm_sampling.testing import EnumerableDenoiser
from dlm_sampling.types import DenoiserOutput, Pass
from tests.guidance.toys import (
    CANVASES,
    EXACT_P,
    EXACT_Q,
    LENGTH,
    MASK,
    NOISY_P,
    NOISY_Q,
    STATES,
    P,
    S,
    joint,
    log_probs,
    predict,
)

MASKS = CANVASES == MASK
C, U = (d.probs(CANVASES)[MASKS] for d in (EXACT_P, EXACT_Q))
THIRD = EnumerableDenoiser(joint(3))
ONE = torch.full((1, LENGTH), MASK)


def test_a_product_of_three_models() -> None:
    guide = Product((EXACT_Q, THIRD), (0.8, 1.5, -0.3))
    found = log_probs(guide, EXACT_P, CANVASES).exp()
    weights = C**0.8 * U**1.5 * THIRD.probs(CANVASES)[MASKS] ** (-0.3)
    weights[:, MASK] = 0.0
    torch.testing.assert_close(found, weights / weights.sum(1, keepdim=True), atol=1e-12, rtol=0)
    prediction, predictor = predict(Product((EXACT_Q, THIRD), (1.0, 0.0, 2.0)), EXACT_P, ONE)
    prediction.log_probs(ONE == MASK)
    assert predictor.nfe.tolist() == [2]  # nobody asks a model of power 0


def test_a_contrastive_pair_keeps_the_plausible_tokens() -> None:
    found = log_probs(Contrast(EXACT_Q, 0.7, 0.5), EXACT_P, CANVASES).exp()
    weights = C**1.7 * U ** (-0.7)
    weights[0.5 * C.amax(1, keepdim=True) > C] = 0.0
    weights[:, MASK] = 0.0
    torch.testing.assert_close(found, weights / weights.sum(1, keepdim=True), atol=1e-12, rtol=0)


class Loud(EnumerableDenoiser):
    """The conditionals of P, with a large logit of the mask, which is never written."""

    def forward(self, inputs: Pass) -> DenoiserOutput:
        values = super().forward(inputs).values.clone()
        values[..., MASK] = 9.0
        return DenoiserOutput(values)


def test_what_is_plausible_does_not_depend_on_ids_that_are_never_written() -> None:
    quiet, loud = (log_probs(Contrast(EXACT_Q, 0.7, 0.5), d, CANVASES) for d in (EXACT_P, Loud(P)))
    torch.testing.assert_close(loud.exp(), quiet.exp(), atol=1e-12, rtol=0)


@pytest.mark.parametrize("reads", ["leave_one_out", "log_score"])
def test_under_uniform_noise_plausible_tokens_and_the_one_that_stands_are_kept(reads: Any) -> None:
    x, level = STATES, torch.full((len(STATES),), 0.4, dtype=torch.float64)
    every, rule = torch.ones_like(x, dtype=torch.bool), Uniform()

    def step(site: Any) -> Tensor:
        a = level[site.row]
        return site.p if reads == "log_score" else rule.reverse(site.p, site.x, a, a + 0.3)

    def laws(guide: Any, model: Any) -> Tensor:
        prediction, _ = predict(guide, model, x)
        given: Any = {"alpha": level, "reads": reads}
        found = [prediction.log_law_of(step, 0 * x + v, every, **given).exp() for v in range(S)]
        return torch.stack(found, -1)

    clean = predict(None, NOISY_P, x)[0].log_probs(every).exp()
    kept = clean >= 0.5 * clean.amax(1, keepdim=True)
    kept = kept.scatter(1, x.view(-1, 1), True)
    assert bool((~kept).any())
    c, u = (laws(None, model) for model in (NOISY_P, NOISY_Q))
    wanted = (c**1.7 * u**-0.7).where(kept, 0.0)
    found = laws(Contrast(NOISY_Q, 0.7, 0.5), NOISY_P)
    torch.testing.assert_close(found, wanted / wanted.sum(1, keepdim=True))


def test_a_stitched_run_asks_one_model_at_a_time() -> None:
    x, t = ONE.expand(2, -1), torch.tensor([0.7, 0.5], dtype=torch.float64)
    prediction, predictor = predict(Stitch(EXACT_Q, 0.5), EXACT_P, x, t)
    found = prediction.log_probs(x == MASK).view(2, LENGTH, -1)
    assert predictor.nfe.tolist() == [1, 1]
    assert torch.equal(found[0], log_probs(None, EXACT_Q, ONE))
    assert torch.equal(found[1], log_probs(None, EXACT_P, ONE))


@pytest.mark.slow
@pytest.mark.parametrize("noisy", [False, True])
def test_weights_of_one_model_are_its_plain_run(noisy: bool) -> None:
    mine, other = (NOISY_P, NOISY_Q) if noisy else (EXACT_P, EXACT_Q)
    empty = torch.zeros(20, LENGTH, dtype=torch.int64)
    every: dict[str, Any] = {"seeds": range(20), "steps": 4}
    sampler = samplers.create("ancestral")
    plain = {d: sample(d, sampler, empty, empty == 0, **every) for d in (mine, other)}
    for guide, which in (
        (Product((other,), (1.0, 0.0)), mine),
        (Product((other,), (0.0, 1.0)), other),
        (Contrast(other, 0.0), mine),
        (Stitch(other, 1.0), mine),
        (Stitch(other, 0.0), other),
    ):
        out = sample(mine, sampler, empty, empty == 0, guidance=guide, **every)
        # The last step of a grid has time t_end > 0, which is before time 0.
        assert torch.equal(out.tokens, plain[which].tokens), guide
        assert torch.equal(out.nfe, plain[which].nfe), guide


@pytest.mark.parametrize(
    ("guidance", "words"),
    [
        (lambda: Product((EXACT_Q,), (1.0,)), "powers has 1 entries: must be 2"),
        (lambda: Product((EXACT_Q,), (0.0, 0.0)), "powers are all 0"),
        (lambda: Product(("q",), (1.0, 1.0)), r"others\[0\] is a str: must be a Denoiser"),
        (lambda: Product((EXACT_Q,), (1.0, "x")), r"powers\[1\]='x'"),
        (lambda: Contrast(EXACT_Q, -1.0), "strength=-1.0: must be finite"),
        (lambda: Contrast(EXACT_Q, 1.0, 1.0), r"plausible=1.0: must be in \[0, 1\)"),
        (lambda: Stitch(EXACT_Q, 2.0), r"switch=2.0: must be in \[0, 1\]"),
        (lambda: Stitch(lambda x: x), "early is a function: must be a Denoiser"),
    ],
)
def test_what_makes_no_blend_is_named(guidance: Any, words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        guidance()


def test_models_of_another_noise_are_named() -> None:
    empty = torch.zeros(1, LENGTH, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"Stitch: its denoiser .* both must be of one vocab"):
        sample(
            EXACT_P, samplers.create("ancestral"), empty, empty == 0, seeds=[0],
            guidance=Stitch(NOISY_Q),
        )  # fmt: skip

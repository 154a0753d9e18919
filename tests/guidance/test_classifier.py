"""Classifier guidance: Bayes' rule, the first order, rates, and classifiers of transformers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification

from dlm_sampling import sample, samplers
from dlm_sampling.guidance import Classifier, SequenceClassifier
from dlm_sampling.processes import Absorbing, Uniform
from dlm_sampling.processes.guidance import (
    candidate_log_ratios,
    classifier_based_law,
    rate_preserving_law,
)
from dlm_sampling.testing import EnumerableDenoiser, chi_square, count_states
from dlm_sampling.types import TokenLaw
from tests.guidance.toys import (
    CANVASES,
    EXACT_P,
    LENGTH,
    MASK,
    NOISY_P,
    STATES,
    P,
    S,
    chain_law,
    log_probs,
    predict,
)

LIKELY = torch.rand(S**LENGTH, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
"""P(c | x) of every row."""
SLOPES = torch.randn(LENGTH, S + 1, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def exact(canvas: Tensor) -> Tensor:
    """log P(c | z), by marginalising over what is masked."""
    fits = ((canvas.unsqueeze(1) == MASK) | (canvas.unsqueeze(1) == STATES)).all(2) * P.flatten()
    return ((fits * LIKELY).sum(1) / fits.sum(1)).log()


def linear(one_hot: Tensor) -> Tensor:
    return (one_hot.double() * SLOPES[:, : one_hot.shape[-1]]).sum((1, 2))


def linear_of_ids(canvas: Tensor) -> Tensor:
    return SLOPES[torch.arange(LENGTH), canvas].sum(1)


GUIDE = Classifier(exact, S + 1)
POSTERIOR = P.flatten() * LIKELY / (P.flatten() * LIKELY).sum()


@pytest.mark.slow
def test_an_exact_classifier_gives_the_posterior_by_bayes() -> None:
    """Guided conditionals are those of P(x | c), so the run has that law."""
    bayes = EnumerableDenoiser(POSTERIOR.view(S, S, S))
    masks = CANVASES == MASK
    found = log_probs(GUIDE, EXACT_P, CANVASES).exp()
    torch.testing.assert_close(found, bayes.probs(CANVASES)[masks], atol=1e-12, rtol=0)
    law = chain_law(lambda x: bayes.probs(x)[..., :S])
    torch.testing.assert_close(law, POSTERIOR, atol=1e-12, rtol=0)
    empty = torch.zeros(4000, LENGTH, dtype=torch.int64)
    out = sample(
        EXACT_P, samplers.create("first-hitting"), empty, empty == 0, seeds=range(4000),
        guidance=GUIDE,
    )  # fmt: skip
    assert chi_square(count_states(out.tokens, S), POSTERIOR).p > 1e-3
    assert out.nfe.unique().tolist() == [LENGTH]


@pytest.mark.parametrize("strength", [0.5, 2.0])
def test_a_linear_classifier_is_exact_to_first_order(strength: float) -> None:
    one = Classifier(linear_of_ids, S + 1, strength)
    two = Classifier(linear, S + 1, strength, order="first")
    found, other = (log_probs(guide, EXACT_P, CANVASES) for guide in (one, two))
    torch.testing.assert_close(found, other, atol=1e-6, rtol=1e-6)
    masks = CANVASES == MASK
    ratios = candidate_log_ratios(linear_of_ids, CANVASES, S + 1)[masks]
    law = classifier_based_law(EXACT_P.probs(CANVASES)[masks], ratios, strength)
    law[:, MASK] = 0.0
    torch.testing.assert_close(found.exp(), law / law.sum(1, keepdim=True), atol=1e-12, rtol=0)


def reveal(guide: Classifier, x: Tensor, prob: float) -> Tensor:
    prediction, _ = predict(guide, EXACT_P, x)
    rate = torch.full((len(x),), prob, dtype=torch.float64)
    return prediction.reveal_prob(rate, x == MASK).expand(x.shape)


def test_rates_are_those_of_the_law_with_the_mask_in_it() -> None:
    """q~(v) ~ q(v) p(c | z + v)^g over tokens and mask, to 1e-12; Bayes leaves the rate alone."""
    process, x = Absorbing(MASK), CANVASES
    a, s = (torch.tensor(v, dtype=torch.float64) for v in (0.3, 0.7))
    prob = float((s - a) / (1 - a))
    q = process.reverse(EXACT_P.probs(x), x, a, s)
    for strength in (1.0, 2.5):
        guide = Classifier(exact, S + 1, strength, rate_preserving=False)
        law = classifier_based_law(q, candidate_log_ratios(exact, x, S + 1), strength)
        leaves = reveal(guide, x, prob)
        token = log_probs(guide, EXACT_P, x).exp()
        masks = x == MASK
        found = leaves[masks].unsqueeze(1) * token
        found[:, MASK] = 1.0 - leaves[masks]
        torch.testing.assert_close(found, law[masks], atol=1e-12, rtol=0)
        if strength == 1.0:
            torch.testing.assert_close(leaves[masks], torch.full_like(leaves[masks], prob))
    kept = Classifier(exact, S + 1, 2.5)
    assert reveal(kept, x, prob).unique().tolist() == [prob]
    assert reveal(guide, x[:1], 1.0)[x[:1] == MASK].tolist() == [1.0] * int((x[0] == MASK).sum())


@pytest.mark.parametrize("keep", [True, False])
def test_under_uniform_noise_the_law_of_the_step_is_tilted(keep: bool) -> None:
    x, rule, level = STATES, Uniform(), torch.full((len(STATES),), 0.4, dtype=torch.float64)
    places = torch.tensor([9, 3, 1])
    guide = Classifier(lambda z: LIKELY[z @ places].log(), S, 1.5, rate_preserving=keep)
    every = torch.ones_like(x, dtype=torch.bool)

    def step(site: Any) -> Tensor:
        a = level[site.row]
        return rule.reverse(site.p, site.x, a, a + 0.3)

    def laws(of: Any) -> Tensor:
        zero = torch.zeros_like(x)
        return torch.stack(
            [
                of.log_law_of(step, zero + v, every, alpha=level, reads="leave_one_out").exp()
                for v in range(S)
            ],
            -1,
        ).view(*x.shape, S)

    plain, found = (laws(predict(g, NOISY_P, x)[0]) for g in (None, guide))
    ratios = candidate_log_ratios(guide.log_classifier, x, S)
    wanted = (
        rate_preserving_law(plain, ratios, x, 1.5)
        if keep
        else classifier_based_law(plain, ratios, 1.5)
    )
    torch.testing.assert_close(found, wanted, atol=1e-12, rtol=0)


def test_strength_0_is_the_plain_run_and_asks_nobody() -> None:
    def refuse(canvas: Tensor) -> Tensor:
        raise AssertionError("asked")

    empty = torch.zeros(20, LENGTH, dtype=torch.int64)
    for denoiser, name, size in ((EXACT_P, "remdm-cap", S + 1), (NOISY_P, "euler", S)):
        plain, guided = (
            sample(
                denoiser,
                samplers.create(name),
                empty,
                empty == 0,
                seeds=range(20),
                steps=4,
                guidance=guide,
            )
            for guide in (None, Classifier(refuse, size, 0.0, rate_preserving=False))
        )
        assert torch.equal(plain.tokens, guided.tokens)
        assert torch.equal(plain.nfe, guided.nfe)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ancestral", "psi", "llada", "glauber", "planned-self"])
def test_rows_stand_alone(name: str) -> None:
    empty = torch.zeros(3, LENGTH, dtype=torch.int64)
    guide = Classifier(exact, S + 1, 2.0, rate_preserving=name not in ("ancestral", "psi"))
    law = TokenLaw()
    rows = sample(
        EXACT_P, samplers.create(name), empty, empty == 0, seeds=range(3), law=law, guidance=guide
    )
    alone = sample(
        EXACT_P, samplers.create(name), empty[:1], empty[:1] == 0, seeds=[2], law=law,
        guidance=guide,
    )  # fmt: skip
    assert torch.equal(rows.tokens[2:], alone.tokens)


def test_only_samplers_in_time_have_a_rate() -> None:
    guide = Classifier(exact, S + 1, rate_preserving=False)
    empty = torch.zeros(1, LENGTH, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"LLaDA decides .*; use rate_preserving=True"):
        sample(EXACT_P, samplers.create("llada"), empty, empty == 0, seeds=[0], guidance=guide)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"log_classifier": 3}, "log_classifier is an int: must be a function"),
        ({"order": "second"}, "order='second': must be one of exact, first"),
        ({"strength": float("nan")}, "strength=nan: must be finite"),
    ],
)
def test_what_is_no_classifier_is_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        Classifier(**{"log_classifier": exact, "vocab_size": 4, **options})


def test_a_sequence_classifier_of_transformers_reads_ids_and_one_hot_canvases() -> None:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=S + 1, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=8, num_labels=3,
    )  # fmt: skip
    model = BertForSequenceClassification(config).eval()
    guide = SequenceClassifier(model, 2, chunk=5)
    x = CANVASES[:12]
    with torch.no_grad():
        wanted = model(input_ids=x).logits.log_softmax(-1)[:, 2]
        torch.testing.assert_close(guide(x), wanted)
        one_hot = torch.nn.functional.one_hot(x, S + 1).float()
        torch.testing.assert_close(guide(one_hot), wanted, atol=1e-6, rtol=1e-5)
    near = Classifier(guide, S + 1, 0.01, order="first")
    far = Classifier(guide, S + 1, 0.01)
    torch.testing.assert_close(
        *(log_probs(which, EXACT_P, x) for which in (near, far)), atol=1e-2, rtol=1e-2
    )

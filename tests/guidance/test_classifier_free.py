"""Classifier-free guidance: closed forms, passes, rows, conditions, and what it is not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from dlm_sampling import generate, sample, samplers, wrap
from dlm_sampling.guidance import (
    Annealed,
    Classifier,
    ClassifierFree,
    Guidance,
    MaskedPrompt,
    NegativePrompt,
    NullLabel,
    RatioAware,
)
from dlm_sampling.processes import Uniform
from dlm_sampling.processes.guidance import classifier_free_law
from dlm_sampling.schedules import grid_time
from dlm_sampling.testing import (
    EnumerableDenoiser,
    NoisyEnumerableDenoiser,
    chi_square,
    count_states,
    exact_chain_law,
    tv,
)
from dlm_sampling.types import DenoiserOutput, Pass, TokenLaw
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
    Q,
    S,
    chain_law,
    joint,
    log_probs,
    predict,
)


@pytest.mark.parametrize("w", [-0.5, 0.5, 2.0])
def test_laws_are_those_of_the_closed_form(w: float) -> None:
    """At every mask of every canvas, to 1e-12; one position: p_c^g p_u^(1 - g) / Z."""
    guide = ClassifierFree(w, EXACT_Q)
    found = log_probs(guide, EXACT_P, CANVASES).exp()
    masks = CANVASES == MASK
    c, u = (d.probs(CANVASES)[masks] for d in (EXACT_P, EXACT_Q))
    weights = c ** (w + 1) * u ** (-w)
    weights[:, MASK] = 0.0
    torch.testing.assert_close(found, weights / weights.sum(1, keepdim=True), atol=1e-12, rtol=0)
    one = [EnumerableDenoiser(joint(seed, 1)) for seed in (5, 6)]
    alone = log_probs(ClassifierFree(w, one[1]), one[0], torch.tensor([[MASK]])).exp()[0, :S]
    law = joint(5, 1) ** (w + 1) * joint(6, 1) ** (-w)
    torch.testing.assert_close(alone, law / law.sum(), atol=1e-12, rtol=0)


def guided(x: Tensor, gamma: float) -> Tensor:
    c, u = EXACT_P.probs(x)[..., :S], EXACT_Q.probs(x)[..., :S]
    return classifier_free_law(c, u, gamma)


@pytest.mark.slow
def test_it_is_not_the_product_law_once_there_are_several_positions() -> None:
    """The law of the run by enumeration, the run itself by chi-square, and the distance."""
    found, product = chain_law(lambda x: guided(x, 2.0)), (P**2 / Q).flatten()
    product = product / product.sum()
    empty = torch.zeros(4000, LENGTH, dtype=torch.int64)
    out = sample(
        EXACT_P, samplers.create("llada-random"), empty, empty == 0, seeds=range(4000),
        law=TokenLaw(), guidance=ClassifierFree(1.0, EXACT_Q),
    )  # fmt: skip
    assert chi_square(count_states(out.tokens, S), found).p > 1e-3
    assert out.nfe.unique().tolist() == [2 * LENGTH]
    distance = tv(found, product)
    assert distance == pytest.approx(DISTANCE, abs=1e-3)
    assert tv(chain_law(lambda x: guided(x, 1.0)), P.flatten()) < 1e-12


DISTANCE = 0.2123


@pytest.mark.parametrize(("w", "denoiser"), [(0.0, EXACT_P), (-1.0, EXACT_Q)])
def test_scales_of_one_pass_are_plain_runs(w: float, denoiser: Any) -> None:
    empty = torch.zeros(30, LENGTH, dtype=torch.int64)
    given: dict[str, Any] = {"seeds": range(30), "steps": 3}
    for name in ("ancestral", "llada-random", "remdm-cap"):
        sampler = samplers.create(name)
        plain = sample(denoiser, sampler, empty, empty == 0, **given)
        guide = ClassifierFree(w, EXACT_Q)
        one = sample(EXACT_P, sampler, empty, empty == 0, guidance=guide, **given)
        assert torch.equal(plain.tokens, one.tokens)
        assert torch.equal(plain.nfe, one.nfe)


def test_a_scale_per_row_and_a_function_of_time() -> None:
    x = torch.full((4, LENGTH), MASK)
    scales = (0.0, -1.0, 0.5, 2.0)
    prediction, predictor = predict(ClassifierFree(scales, EXACT_Q), EXACT_P, x)
    found = prediction.log_probs(x == MASK).view(4, LENGTH, -1)
    assert predictor.nfe.tolist() == [1, 1, 2, 2]
    for row, w in enumerate(scales):
        alone = log_probs(ClassifierFree(w, EXACT_Q), EXACT_P, x[:1])
        assert torch.equal(found[row], alone)
    t = torch.tensor([0.9, 0.5, 0.1, 0.8], dtype=torch.float64)
    prediction, predictor = predict(ClassifierFree(Annealed(2.0), EXACT_Q), EXACT_P, x, t)
    found = prediction.log_probs(x == MASK).view(4, LENGTH, -1)
    assert predictor.nfe.tolist() == [1, 2, 2, 1]
    for row, w in enumerate((0.0, 1.0, 2.0, 0.0)):
        wanted = log_probs(ClassifierFree(w, EXACT_Q), EXACT_P, x[:1])
        torch.testing.assert_close(found[row], wanted, atol=1e-12, rtol=1e-12)


def test_rows_that_are_asked_one_after_another_are_those_asked_together() -> None:
    """A lazy prediction joins passes of which some rows needed one and some two."""
    x, guide = torch.full((4, LENGTH), MASK), ClassifierFree((0.0, 1.0, -1.0, 2.0), EXACT_Q)
    whole = predict(guide, EXACT_P, x)[0].log_probs(x == MASK)
    prediction, predictor = predict(guide, EXACT_P, x)
    for row in (2, 0, 3, 1):
        some = torch.zeros_like(x, dtype=torch.bool)
        some[row, row % LENGTH] = True
        prediction.log_probs(some)
    assert predictor.nfe.tolist() == [1, 2, 1, 2]
    assert torch.equal(prediction.log_probs(x == MASK), whole)


def test_ratio_aware_scales_fall_with_the_ratio() -> None:
    """rho by its definition over the masks of a row."""
    x = torch.tensor([[MASK, MASK, MASK], [0, MASK, 1]])
    rule = RatioAware(2.0, speed=3.0, least=0.5)
    found = log_probs(ClassifierFree(rule, EXACT_Q), EXACT_P, x)
    start = 0
    for row in x:
        masks = row == MASK
        c, u = (d.probs(row[None])[0][masks] for d in (EXACT_P, EXACT_Q))
        rho = float((c - u).norm() / u.norm())
        w = 0.5 + 1.5 * float(torch.tensor(-3.0 * rho).exp())
        wanted = log_probs(ClassifierFree(w, EXACT_Q), EXACT_P, row[None])
        torch.testing.assert_close(found[start : start + int(masks.sum())], wanted)
        start += int(masks.sum())


def test_ratio_aware_scales_read_nothing_that_is_hidden() -> None:
    """With causal blocks of one position, rho is that of the position which is written."""
    c, u = torch.randn(2, 4, S, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    one, other = (
        wrap(lambda ids, table=table: table[: ids.shape[1]].expand(len(ids), -1, -1), vocab_size=S,
             mask_token_id=0) for table in (c, u)
    )  # fmt: skip
    tokens = torch.zeros(2, 4, dtype=torch.int64)
    out = sample(
        one, samplers.create("llada-random"), tokens, tokens == 0, seeds=(1, 2), block_length=1,
        causal_blocks=True, guidance=ClassifierFree(RatioAware(2.0, 3.0), other), law=TokenLaw(),
    )  # fmt: skip
    p, q = (table[:, 1:].softmax(1) for table in (c, u))
    w = 2.0 * (-3.0 * (p - q).norm(dim=1) / q.norm(dim=1)).exp().unsqueeze(1)
    law = ((w + 1) * p.log() - w * q.log()).log_softmax(1)
    wanted = law.gather(1, (out.tokens - 1).T).T
    torch.testing.assert_close(out.logprob.double(), wanted, rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["ancestral", "euler", "flow-matching", "glauber", "psi"])
def test_under_uniform_noise_laws_of_steps_are_combined(sampler: str) -> None:
    """The posterior of UDLM's rule to 1e-12; whole runs end, and scale 0 is the plain run."""
    x, rule = STATES, Uniform()
    level = torch.full((len(x),), 0.4, dtype=torch.float64)
    prediction, _ = predict(ClassifierFree(0.7, NOISY_Q), NOISY_P, x)
    plain = [predict(None, d, x)[0] for d in (NOISY_P, NOISY_Q)]
    every = torch.ones_like(x, dtype=torch.bool)

    def step(site: Any) -> Tensor:
        a = level[site.row]
        return rule.reverse(site.p, site.x, a, a + 0.3)

    def laws(of: Any) -> Tensor:
        ids = STATES.new_zeros(len(x), LENGTH)
        return torch.stack(
            [
                of.log_law_of(step, ids + v, every, alpha=level, reads="leave_one_out").exp()
                for v in range(S)
            ],
            -1,
        )

    c, u = (laws(of) for of in plain)
    wanted = classifier_free_law(c, u, 1.7)
    torch.testing.assert_close(laws(prediction), wanted, atol=1e-12, rtol=0)
    empty = torch.zeros(20, LENGTH, dtype=torch.int64)
    runs = [
        sample(
            NOISY_P,
            samplers.create(sampler),
            empty,
            empty == 0,
            seeds=range(20),
            steps=4,
            guidance=guide,
        )
        for guide in (None, ClassifierFree(0.0, NOISY_Q), ClassifierFree(1.0, NOISY_Q))
    ]
    assert torch.equal(runs[0].tokens, runs[1].tokens)
    assert torch.equal(runs[0].nfe, runs[1].nfe)
    assert torch.equal(2 * runs[0].nfe, runs[2].nfe)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(samplers.available()))
def test_every_sampler_can_be_guided_and_rows_stand_alone(name: str) -> None:
    entry = samplers.available()[name]
    masks = "absorbing" in entry.runs_on
    denoiser, other = (EXACT_P, EXACT_Q) if masks else (NOISY_P, NOISY_Q)
    empty = torch.zeros(3, LENGTH, dtype=torch.int64)
    given: dict[str, Any] = {"guidance": ClassifierFree((0.0, 0.7, 1.5), other)}
    rows = sample(denoiser, entry.build(), empty, empty == 0, seeds=range(3), **given)
    given["guidance"] = ClassifierFree((1.5,), other)
    alone = sample(denoiser, entry.build(), empty[:1], empty[:1] == 0, seeds=[2], **given)
    assert torch.equal(rows.tokens[2:], alone.tokens)
    assert int(rows.tokens.max()) < S


class Seeing:
    """A network whose logits tell which tokens it saw, and a record of them."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def __call__(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        real = torch.ones_like(input_ids) if attention_mask is None else attention_mask.long()
        self.seen.append((input_ids * real).tolist())
        shift = (input_ids * real).sum(1, keepdim=True).double()
        logits = (torch.arange(9.0).double() + shift).sin().unsqueeze(1)
        return logits.expand(-1, input_ids.shape[1], -1)


def test_conditions_that_the_second_pass_does_not_see() -> None:
    """A masked prompt, another prompt that is shorter, and null labels; rows of any length."""
    for condition, second in (
        (MaskedPrompt(), [[8, 8, 8], [0, 8, 8]]),
        (NegativePrompt((5,)), [[0, 5, 8], [0, 5, 8]]),
        (NullLabel({3: 7}), [[7, 4, 8], [0, 7, 8]]),
    ):
        net = Seeing()
        denoiser = wrap(net, vocab_size=9, mask_token_id=8)
        denoiser.padding_proven = True
        generate(
            denoiser, [[3, 4], [3]], max_new_tokens=1, sampler="llada", seed=0,
            guidance=ClassifierFree((0.5, 0.5), condition),
        )  # fmt: skip
        assert net.seen == [[[3, 4, 8], [0, 3, 8]], second]


def test_the_number_is_short_for_the_object() -> None:
    net = Seeing()
    denoiser = wrap(net, vocab_size=9, mask_token_id=8)
    options: dict[str, Any] = {"max_new_tokens": 4, "sampler": "ancestral", "seed": 3, "steps": 3}
    number = generate(denoiser, [[3, 4]], guidance_scale=1.5, **options)
    whole = generate(denoiser, [[3, 4]], guidance=ClassifierFree(1.5), **options)
    rows = generate(denoiser, [[3, 4]], guidance=ClassifierFree((1.5,)), **options)
    assert number.token_ids == whole.token_ids == rows.token_ids
    assert number.nfe.tolist() == whole.nfe.tolist() == rows.nfe.tolist()


@pytest.mark.parametrize(
    ("guidance", "words"),
    [
        (lambda: ClassifierFree("much"), "scale='much': must be a number"),
        (lambda: ClassifierFree((1.0, "much")), r"scale\[1\]='much'"),
        (lambda: ClassifierFree(1.0, "mask"), "unconditional is a str: must be MaskedPrompt"),
        (lambda: NegativePrompt(()), "ids is empty"),
        (lambda: NegativePrompt("bad"), "ids is 'bad': must be token ids; for a text"),
        (
            lambda: generate(EXACT_P, max_new_tokens=3, guidance=NegativePrompt((1,))),
            "`unconditional` takes a Neg",
        ),
        (lambda: Annealed(1.0, 0.8, 0.2), "need 0 <= low < high <= 1"),
        (lambda: RatioAware(1.0, -1.0), "speed=-1.0"),
    ],
)
def test_what_makes_no_guidance_is_named(guidance: Any, words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        guidance()


def test_what_does_not_fit_the_run_is_named() -> None:
    denoiser = wrap(Seeing(), vocab_size=9, mask_token_id=8)
    for guidance, words, more in (
        (ClassifierFree((1.0, 2.0, 3.0)), "scale has 3 entries for 1 rows", {}),
        (ClassifierFree(1.0, NegativePrompt((1, 2, 3))), "3 tokens for a prompt of 2", {}),
        (ClassifierFree(1.0, NegativePrompt((99,))), "99 is no id", {}),
        (ClassifierFree(1.0, NullLabel({1: 99})), "99 is no token id", {}),
        (ClassifierFree(1.0, EXACT_Q), "has vocab_size=4, and that of the run 9", {}),
        (ClassifierFree((1.0,)), "a guidance is given too", {"guidance_scale": 1.0}),
        ("strong", "guidance is a str", {}),
    ):
        with pytest.raises((TypeError, ValueError), match=words):
            generate(denoiser, [[3, 4]], max_new_tokens=2, guidance=guidance, **more)  # pyright: ignore
    with pytest.raises(ValueError, match="this denoiser has no mask"):
        empty = torch.zeros(1, LENGTH, dtype=torch.int64)
        sample(
            NOISY_P, samplers.create("ancestral"), empty, empty == 0, seeds=[0],
            guidance=ClassifierFree((1.0,)),
        )  # fmt: skip


def test_outputs_of_other_shapes_are_read() -> None:
    """A second denoiser behind a head gives the same laws as one that returns logits."""

    class Headed(EnumerableDenoiser):
        def forward(self, inputs: Pass) -> DenoiserOutput:
            out = super().forward(inputs)
            return DenoiserOutput(out.values, lambda values: values)

    plain, headed = (
        log_probs(ClassifierFree(0.5, other), EXACT_P, CANVASES) for other in (EXACT_Q, Headed(Q))
    )
    assert torch.equal(plain, headed)


@pytest.mark.parametrize("law", [TokenLaw(0.7, top_k=2), TokenLaw(top_p=0.6), TokenLaw(0.0)])
def test_under_uniform_noise_filters_read_the_blended_law(law: TokenLaw) -> None:
    """All passes keep the same tokens, so that no law of a step is empty, the last one included."""
    x, rule = STATES, Uniform()
    level = torch.full((len(x),), 0.4, dtype=torch.float64)
    every = torch.ones_like(x, dtype=torch.bool)
    prediction, _ = predict(ClassifierFree(1.5, NOISY_Q), NOISY_P, x, law=law)
    c, u = (predict(None, d, x)[0].log_probs(every).double() for d in (NOISY_P, NOISY_Q))
    blend = 2.5 * c - 1.5 * u
    order, p = blend.argsort(1, descending=True), blend.softmax(1)
    rank = order.argsort(1)
    before = (p.gather(1, order).cumsum(1) - p.gather(1, order)).gather(1, rank)
    kept = rank < 2 if law.top_k else rank < 1 if law.temperature == 0.0 else before < 0.6
    for last in (0.7, 1.0):

        def step(site: Any, last: float = last) -> Tensor:
            return rule.reverse(site.p, site.x, level[site.row], level[site.row] * 0.0 + last)

        parts = [
            (table.where(kept, -torch.inf) / (law.temperature or 1.0)).softmax(1)
            for table in (c, u)
        ]
        a = level.repeat_interleave(LENGTH)
        one, other = (rule.reverse(t, x.flatten(), a, a * 0.0 + last) for t in parts)
        wanted = classifier_free_law(one, other, 2.5)
        found = torch.stack(
            [
                prediction.log_law_of(step, x * 0 + v, every, alpha=level, reads="leave_one_out")
                for v in range(S)
            ],
            -1,
        )
        torch.testing.assert_close(found.exp(), wanted, atol=1e-9, rtol=0)
    empty = torch.zeros(30, LENGTH, dtype=torch.int64)
    out = sample(
        NOISY_P, samplers.create("ancestral"), empty, empty == 0, seeds=range(30), steps=3,
        guidance=ClassifierFree(1.5, NOISY_Q), law=law,
    )  # fmt: skip
    assert bool(out.logprob.isfinite().all())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["blend", "tilt"])
def test_runs_under_uniform_noise_have_the_law_of_combined_steps(kind: str) -> None:
    """Ancestral draws without a table only where there is no guidance: the chain by enumeration."""
    one, other = (NoisyEnumerableDenoiser(joint(seed, 2)) for seed in (1, 2))
    tilt = torch.randn(2, S, generator=torch.Generator().manual_seed(2)).double()
    guide: Guidance = ClassifierFree(1.5, other)
    if kind == "tilt":
        classifier = Classifier(lambda x: tilt[torch.arange(2), x].sum(1), S, 2.0)
        guide = replace(classifier, rate_preserving=False)
    sampler, steps = samplers.create("ancestral", noise_removal="sample"), 3

    def step(x: Tensor, k: int) -> Tensor:
        t, s = (grid_time(torch.tensor(i), torch.tensor(steps), 1e-5) for i in (k, k + 1))
        a, b = sampler.schedule.alpha(t), sampler.schedule.alpha(s)
        b = torch.ones_like(a) if k == steps else b
        c, u = (Uniform().reverse(clean(d, x, a), x, a, b) for d in (one, other))
        if kind == "blend":
            return classifier_free_law(c, u, 2.5)
        law = c * (2.0 * (tilt - tilt.gather(1, x.T).T.unsqueeze(2))).exp()
        return law / law.sum(2, keepdim=True)

    start = torch.full((S**2,), S**-2.0)
    law = exact_chain_law(step, steps + 1, length=2, vocab_size=S, start=start)
    empty = torch.zeros(3000, 2, dtype=torch.int64)
    out = sample(
        one, sampler, empty, empty == 0, seeds=range(3000), steps=steps, guidance=guide,
        law=TokenLaw(),
    )  # fmt: skip
    assert chi_square(count_states(out.tokens, S), law).p > 1e-3
    assert tv(law, joint(1, 2).flatten()) > 0.1


def clean(denoiser: NoisyEnumerableDenoiser, x: Tensor, alpha: Tensor) -> Tensor:
    """The leave-one-out laws of canvases at a level."""
    return denoiser(x, t=denoiser.times.time_of(alpha).expand(len(x))).values.exp()

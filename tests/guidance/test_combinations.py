"""Guidance with what else a run can have: the exact law, or a refusal before the first pass."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from dlm_sampling import replay, sample, samplers
from dlm_sampling.constraints import Constraint
from dlm_sampling.guidance import (
    AnchoredPosterior,
    BestOf,
    Classifier,
    ClassifierFree,
    Contrast,
    Guidance,
    NegativePrompt,
    Product,
    Projection,
    RatioAware,
    RewardGradient,
    Stitch,
)
from dlm_sampling.types import DenoiserOutput, Pass, TokenLaw
from dlm_sampling.watermark import Watermark, detect
from tests.guidance.toys import (
    EXACT_P,
    EXACT_Q,
    LENGTH,
    MASK,
    STATES,
    EnumerableDenoiser,
    P,
    Q,
    Remembering,
    S,
)

TILT = torch.randn(LENGTH, S + 1, generator=torch.Generator().manual_seed(2)).double()
GUIDES: dict[str, Guidance] = {
    "classifier-free": ClassifierFree(lambda t: 0.7 + 0 * t, EXACT_Q),
    "ratio-aware": ClassifierFree(RatioAware(0.7), EXACT_Q),
    "classifier": Classifier(lambda x: TILT[torch.arange(LENGTH), x].sum(1), S + 1),
    "reward-gradient": RewardGradient(lambda p: p[..., 0].clamp(min=-9).sum(1), 1.0, 1.0),
    "product": Product((EXACT_Q,), (1.0, 0.7)),
    "contrast": Contrast(EXACT_Q),
    "stitch": Stitch(EXACT_Q, 0.5),
}
CHOICE = BestOf(lambda x: x[:, 0].double(), 2, kind="MC")
RULE = Constraint(banned=[[0, 0], [2, 1]], required=[[2]]).compile(None, S + 1, never=[MASK])


class Counting(EnumerableDenoiser):
    """P, and the passes it was asked for."""

    passes = 0

    def forward(self, inputs: Pass) -> DenoiserOutput:
        self.passes += 1
        return super().forward(inputs)


def run(denoiser: Any, guidance: Guidance | None, rows: int = 40, **options: Any) -> Any:
    tokens, editable = torch.full((rows, LENGTH), MASK), torch.ones(rows, LENGTH).bool()
    settings: dict[str, Any] = {"steps": 1, "law": TokenLaw(), **options}
    name = settings.pop("sampler", "llada-random")
    return sample(
        denoiser, samplers.create(name), tokens, editable, seeds=list(range(rows)),
        guidance=guidance, **settings,
    )  # fmt: skip


def laws(guidance: Guidance) -> Tensor:
    """The guided law of each position of an empty canvas, as the run reports it, [L, S]."""
    out = run(EXACT_P, guidance, 400)
    found = torch.full((LENGTH, S), torch.nan).double()
    for row, logprob in zip(out.tokens, out.logprob.double(), strict=True):
        found[torch.arange(LENGTH), row] = logprob.exp()
    torch.testing.assert_close(found.sum(1), torch.ones(LENGTH).double(), rtol=0, atol=1e-6)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", GUIDES)
def test_a_constraint_conditions_the_guided_law(name: str) -> None:
    guide = GUIDES[name]
    accepted = torch.tensor([RULE.accepts(row) for row in STATES.tolist()])
    mass = laws(guide)[torch.arange(LENGTH), STATES].prod(1) * accepted
    out = run(EXACT_P, guide, constraint=RULE)
    place = (out.tokens * torch.tensor([9, 3, 1])).sum(1)
    wanted = (mass / mass.sum()).log()[place]
    torch.testing.assert_close(out.logprob.double().sum(1), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", GUIDES)
def test_the_same_tokens_with_what_changes_no_law(name: str) -> None:
    """Caches that would be exact step aside; records and empty constraints change nothing."""
    plain = run(EXACT_P, GUIDES[name], steps=3, cache="none")
    met = Constraint(banned=[[MASK]]).compile(None, S + 1, never=[MASK])
    for options in ({"cache": "auto"}, {"return_trajectory": True}, {"constraint": met}):
        out = run(EXACT_P, GUIDES[name], steps=3, **options)
        assert torch.equal(out.tokens, plain.tokens)
        assert torch.equal(out.nfe, plain.nfe)


def test_a_watermark_keeps_the_guided_law() -> None:
    """Every token has its guided log-probability, and the key is found in tokens of chance."""
    guide, mark = GUIDES["classifier-free"], Watermark(3, variants=40)
    found, out = laws(guide), run(EXACT_P, guide, watermark=mark)
    wanted = found[torch.arange(LENGTH), out.tokens].log()
    torch.testing.assert_close(out.logprob.double(), wanted, rtol=0, atol=1e-6)
    ids = run(EXACT_P, guide, watermark=Watermark(3)).tokens[0].tolist()
    assert detect(ids, 3, vocab_size=S + 1).p_value < 0.3


REFUSED: list[tuple[Guidance, dict[str, Any], str]] = [
    (GUIDES["product"], {"cache": "dual"}, "Here cache may be 'none'"),
    (GUIDES["product"], {"max_nfe": 2}, "max_nfe=2: goes without guidance=; leave out one"),
    (GUIDES["product"], {"speculate": 2}, "speculate=2: goes without guidance=; leave out one"),
    (CHOICE, {"constraint": RULE}, "its candidates are several draws, of which a constraint"),
    (CHOICE, {"watermark": 3}, "would be drawn with its one noise; leave out one"),
    (ClassifierFree((0.5,) * 40, NegativePrompt((1,))), {}, "1 tokens for a prompt of 0"),
    (ClassifierFree((0.5,) * 3, EXACT_Q), {}, "scale has 3 entries for 40 rows: give one per row"),
]


@pytest.mark.parametrize(("guidance", "options", "words"), REFUSED)
def test_what_cannot_be_exact_is_refused_before_the_first_pass(
    guidance: Guidance, options: dict[str, Any], words: str
) -> None:
    denoiser = Counting(P)
    with pytest.raises((ValueError, RuntimeError), match=words):
        run(denoiser, guidance, **options)
    assert denoiser.passes == 0


@pytest.mark.parametrize(
    ("guide", "weights"),
    [
        (Product((Remembering(Q),), (1.0, 0.7)), [[1.0, 0.7]] * 3),
        (Product((EXACT_Q,), (1.0, 0.7)), [[1.0, 0.7]] * 3),
        (Contrast(Remembering(Q), 0.5, 0.0), [[1.5, -0.5]] * 3),
        (Stitch(Remembering(Q), 0.5), [[0.0, 1.0]] * 2 + [[1.0, 0.0]]),  # one waits for its time
        (Classifier(GUIDES["classifier"].log_classifier, S + 1, 0.0), [[1.0]] * 3),  # type: ignore
    ],
)
def test_every_pass_has_a_state_of_its_own(guide: Guidance, weights: list[list[float]]) -> None:
    """The log-probabilities of a run are those of passes made here, one after another."""
    own = Remembering(P)
    out = run(own, guide, 12, steps=3, return_trajectory=True)
    models: list[Any] = [own, *(view.denoiser for view in guide.views[1:])]
    states = [Remembering(P).initial_carry(out.tokens) for _ in models]
    assert out.nfe.unique().tolist() == [sum(w != 0.0 for step in weights for w in step)]
    for event, now in zip(out.trajectory.events, weights, strict=True):
        total = torch.zeros(12, LENGTH, S).double()
        for k, (model, weight) in enumerate(zip(models, now, strict=True)):
            if weight != 0.0:
                found = model.forward(Pass(event.before, carry=states[k]))
                states[k] = found.carry
                total += weight * found.values[..., :S].log_softmax(2)
        law = total.log_softmax(2)
        drawn = law.gather(2, event.tokens.clamp(max=S - 1).unsqueeze(2))[..., 0]
        where = event.written
        torch.testing.assert_close(event.logprob[where].double(), drawn[where], rtol=0, atol=1e-6)


def test_the_two_passes_of_a_number_and_of_an_object_have_the_same_states() -> None:
    tokens = torch.tensor([[1, MASK, MASK], [MASK, 2, MASK]]).repeat(6, 1)
    options: dict[str, Any] = {"seeds": range(12), "law": TokenLaw(), "steps": 2}
    one, other = (
        sample(
            Remembering(P),
            samplers.create("llada-random"),
            tokens,
            tokens == MASK,
            **how,
            **options,
        )
        for how in ({"guidance_scale": 0.8}, {"guidance": ClassifierFree((0.8,) * 12)})
    )
    assert torch.equal(one.tokens, other.tokens) and torch.equal(one.nfe, other.nfe)
    torch.testing.assert_close(one.logprob, other.logprob, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("guide", "words"),
    [
        (BestOf(lambda x: x[:, :1].double(), 2), r"value returned shape \(40, 1\) for 40 rows"),
        (BestOf(lambda x: x[:, 0] * math.nan, 2), "value returned NaN or .inf for a row"),
        (Classifier(lambda x: x[:, :2].double(), S + 1), "log_classifier returned shape"),
        (Classifier(lambda x: x[:, :2].sum(2), S + 1, order="first"), "log_classifier returned sh"),
        (RewardGradient(lambda p: p.sum(2)), "reward returned shape"),
        (Projection(lambda y: y.sum(2) - 2.0), "constraint returned shape"),
        (AnchoredPosterior(lambda e: e.sum()), r"loss returned shape \(\) for 40 rows"),
    ],
)  # fmt: skip
def test_functions_that_do_not_say_one_number_per_row_are_named(guide: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        run(EXACT_P, guide)


def test_candidates_that_would_share_a_state_are_refused() -> None:
    with pytest.raises(ValueError, match="of a step would share one; use smc"):
        run(Remembering(P), CHOICE)


def test_laws_that_no_record_tells_are_not_replayed() -> None:
    guided = run(EXACT_P, GUIDES["product"], return_trajectory=True)
    with pytest.raises(ValueError, match="guided by Product, whose laws do not follow from the"):
        replay(EXACT_P, guided)
    plain = run(EXACT_P, None, return_trajectory=True)
    own = replay(EXACT_P, guided, law="model").logprob
    assert own.shape == plain.logprob.shape and bool((own <= 0).all())
    bound = run(EXACT_P, None, constraint=RULE, return_trajectory=True)
    with pytest.raises(ValueError, match=r"was constrained by .*: no record tells the laws given"):
        replay(EXACT_P, bound)

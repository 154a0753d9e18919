"""The likelihood bound: exact by enumeration, unbiased by chance, the same masks for two models."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dlm_sampling import elbo, ops, replay, sample, samplers, wrap
from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.likelihood.elbo import Elbo
from dlm_sampling.likelihood.mask_plans import SCHEMES, MaskPlan, Places
from dlm_sampling.schedules import LINEAR
from dlm_sampling.testing import EnumerableDenoiser, FixtureToy, all_states
from dlm_sampling.types import DenoiserOutput, Pass
from tests.samplers.small import LENGTH, SYMBOLS, small_toy

LAWS = Path(__file__).parents[1] / "fixtures" / "laws"
BOUNDS = ("count", "stratified", "bernoulli", "coupled")
TEXTS = all_states(LENGTH, SYMBOLS)


def of(toy: Denoiser, tokens: Tensor, **options: Any) -> Elbo:
    """Every position is scored where none is named."""
    return elbo(toy, tokens, **options)


def order_average(toy: Denoiser, text: list[int], editable: list[int]) -> tuple[float, float]:
    """Mean over orders of the log-probability of writing one by one; and the log of the mean."""
    mask = toy.mask_token_id
    assert mask is not None
    chains: list[float] = []
    for order in itertools.permutations(editable):
        canvas, total = [mask if i in editable else v for i, v in enumerate(text)], 0.0
        for i in order:
            logits = toy.logits(torch.tensor([canvas]))[0, i].index_fill(
                0, torch.tensor([mask]), -torch.inf
            )
            total += float(logits.log_softmax(-1)[text[i]])
            canvas[i] = text[i]
        chains.append(total)
    chance = torch.tensor(chains, dtype=torch.float64)
    return float(chance.mean()), float(chance.logsumexp(0)) - math.log(len(chains))


def test_all_subsets_are_all_orders_and_never_above_the_likelihood() -> None:
    toy = small_toy()
    found = of(toy, TEXTS, scheme="enumerate")
    exact = [order_average(toy, text, [0, 1, 2]) for text in TEXTS.tolist()]
    mean, likelihood = torch.tensor(exact, dtype=torch.float64).T
    assert (found.value - mean).abs().max() <= 1e-12
    assert (found.value <= likelihood).all()
    assert (likelihood - found.value).max() > 0.01
    assert abs(float(likelihood.exp().sum()) - 1.0) <= 1e-12  # so it is one
    assert found.nfe.tolist() == [7] * 27
    assert (found.logprob.sum(1) - found.value).abs().max() <= 1e-12
    assert (found.terms.mean(1) - found.value).abs().max() <= 1e-12


def test_tight_with_exact_conditionals() -> None:
    joint = json.loads((LAWS / "toys.json").read_text())["toys"]["mask_strong"]
    toy = EnumerableDenoiser(joint)
    texts = toy.points[toy.weights > 1e-6]
    found = of(toy, texts, scheme="enumerate").value
    assert (found - toy.joint[texts.unbind(1)].log()).abs().max() <= 1e-12
    # A biased weight is seen: C / l must not be 1 / l, nor 1.
    plan = of(toy, texts, scheme="enumerate").masks
    for weights in (plan.weights / LENGTH, torch.ones_like(plan.weights)):
        wrong = of(toy, texts, masks=MaskPlan(plan.masks, weights)).value
        assert (wrong - found).abs().max() > 0.1


def test_rows_of_different_size_context_and_padding() -> None:
    toy = small_toy(length=8, vocab_size=7).variant(honours_padding=False)
    tokens = torch.randint(0, 6, (4, 6), generator=torch.Generator().manual_seed(0))
    editable = torch.tensor([[0, 1, 1, 0, 0, 1], [0, 0, 0, 1, 0, 0], [1, 1, 1, 1, 0, 0], [0] * 6])
    found = elbo(toy, tokens, editable=editable.bool(), scheme="enumerate")
    for b in range(3):
        places = editable[b].nonzero().squeeze(1).tolist()
        exact = order_average(toy, tokens[b].tolist(), places)[0]
        assert abs(float(found.value[b]) - exact) <= 1e-12
    assert found.nfe.tolist() == [7, 1, 15, 0] and float(found.value[3]) == 0.0

    def padded(x: Tensor) -> Tensor:
        return nn.functional.pad(x, (2, 0))

    for scheme, size in itertools.product((*BOUNDS, "leave_one_out", "mean_field"), (None, 3)):
        seed = [5, 6, 7, 8] if scheme in BOUNDS else None
        options: dict[str, Any] = {"scheme": scheme, "batch_size": size}
        one = elbo(toy, tokens, editable=editable.bool(), seed=seed, **options)
        two = elbo(
            toy, padded(tokens), editable=padded(editable).bool(), seed=seed,
            attention_mask=padded(torch.ones_like(tokens)), **options,
        )  # fmt: skip
        assert torch.equal(one.masks.masks, two.masks.masks[:, :, 2:])
        assert (one.value - two.value).abs().max() <= 1e-12
        order = torch.tensor([2, 0])
        some = [seed[i] for i in order] if seed else None
        part = elbo(toy, tokens[order], editable=editable[order].bool(), seed=some, **options)
        assert (part.value - one.value[order]).abs().max() <= 1e-12
        if scheme in BOUNDS:
            assert torch.equal(part.masks.masks, one.masks.masks[:, order])


def test_padding_is_not_scored_where_no_position_is_named() -> None:
    toy = small_toy(length=5).variant(honours_padding=False)
    padded, mask = nn.functional.pad(TEXTS[:5], (2, 0)), torch.ones(5, 5, dtype=torch.bool)
    mask[:, :2] = False
    one = of(toy, TEXTS[:5], scheme="mean_field").value
    assert (of(toy, padded, attention_mask=mask, scheme="mean_field").value - one).abs().max() == 0
    assert (of(toy, padded, scheme="mean_field").value - one).abs().max() > 0.1


def test_mean_field_and_leave_one_out() -> None:
    toy = small_toy()
    logp = toy.logits(torch.full_like(TEXTS, 3))[:, :, :SYMBOLS].log_softmax(-1)
    expected = logp.gather(2, TEXTS.unsqueeze(2)).squeeze(2)
    found = of(toy, TEXTS, scheme="mean_field")
    assert (found.logprob - expected).abs().max() <= 1e-12
    assert found.nfe.tolist() == [1] * 27
    found = of(toy, TEXTS, scheme="leave_one_out")
    for i in range(LENGTH):
        canvas = TEXTS.clone()
        canvas[:, i] = 3
        logp = toy.logits(canvas)[:, i, :SYMBOLS].log_softmax(-1)
        expected = logp.gather(1, TEXTS[:, i : i + 1])[:, 0]
        assert (found.logprob[:, i] - expected).abs().max() <= 1e-12
    assert (found.value - found.logprob.sum(1)).abs().max() <= 1e-12


SEEN = 20_000


def estimates(scheme: str, n: int = 2) -> tuple[Tensor, float]:
    """Values of equal rows with n masks each, and the bound."""
    toy = small_toy(length=5, vocab_size=6)
    text = torch.tensor([[1, 0, 4, 2, 2]])
    exact = float(of(toy, text, scheme="enumerate").value)
    return of(toy, text.expand(SEEN, -1), scheme=scheme, n=n, seed=11).value, exact


@pytest.mark.parametrize("n", [2, 6])
@pytest.mark.parametrize("scheme", BOUNDS)
def test_random_masks_are_unbiased(scheme: str, n: int) -> None:
    value, exact = estimates(scheme, n)
    error = float(value.std()) / SEEN**0.5
    assert abs(float(value.mean()) - exact) < 4 * error
    assert error < 0.15


def test_a_biased_weight_is_found() -> None:
    toy = small_toy(length=5, vocab_size=6)
    text = torch.tensor([[1, 0, 4, 2, 2]]).expand(SEEN, -1)
    exact = float(of(toy, text[:1], scheme="enumerate").value)
    plan = of(toy, text, n=1, seed=11).masks
    biased = MaskPlan(plan.masks, 6 / (plan.masks.sum(2).double() + 1))
    value = of(toy, text, masks=biased).value
    assert abs(float(value.mean()) - exact) > 6 * float(value.std()) / SEEN**0.5


def test_levels_that_are_cut_off_are_biased() -> None:
    """Drawing t from [0.2, 0.8], as released training code does, is no estimate of the bound."""
    toy = small_toy(length=5, vocab_size=6, scale=2.0)
    text = torch.tensor([[1, 0, 4, 2, 2]])
    exact = float(of(toy, text, scheme="enumerate").value)
    found = of(toy, text.expand(5 * SEEN, -1), scheme="bernoulli", n=1, seed=2)
    t = 1.0 / found.masks.weights[0]
    for low, biased in ((0.0, False), (0.2, True)):
        kept = found.value[(t > low) & (t < 1.0 - low)]
        far = abs(float(kept.mean()) - exact) / (float(kept.std()) / len(kept) ** 0.5)
        assert far > 5 if biased else far < 4


def test_order_of_the_variances() -> None:
    variance = {scheme: float(estimates(scheme)[0].var()) for scheme in BOUNDS}
    assert 4 * variance["count"] < variance["coupled"] < variance["bernoulli"]
    assert variance["stratified"] < 1.1 * variance["count"]


@pytest.mark.parametrize(("total", "n"), [(20, 8), (100, 8), (5, 7), (64, 16), (1, 3)])
def test_stratified_sizes_are_exactly_uniform(total: int, n: int) -> None:
    """The sizes for every k in 1..C, each once: every size as often as every other."""
    editable = torch.ones(total, total, dtype=torch.bool)

    class Each(ops.Rng):
        def uniform(self, stream: int, like: Tensor, sub: int = 0) -> Tensor:
            if like.ndim == 1:
                return (torch.arange(total).double() + 0.5) / total
            return super().uniform(stream, like, sub)

    base = ops.Rng.from_seeds(ops.row_seeds(0, total))
    plan = SCHEMES["stratified"].plan(Places(editable, Each(base.keys, base.step, base.origin)), n)
    sizes = plan.masks.sum(2)
    for j in range(n):
        assert sizes[j].bincount(minlength=total + 1).tolist() == [0] + [1] * total
    assert torch.allclose(plan.weights, total / sizes.double(), rtol=1e-15)


def test_subsets_are_uniform() -> None:
    rows = 30_000
    editable = torch.tensor([True, True, False, True, True]).expand(rows, -1)
    places = Places(editable, ops.Rng.from_seeds(ops.row_seeds(1, rows)))
    chosen = places.subset(3, torch.full((rows,), 2))
    assert not chosen[:, 2].any() and (chosen.sum(1) == 2).all()
    code = (chosen.long() * torch.tensor([1, 2, 0, 4, 8])).sum(1)
    counts = code.bincount(minlength=16)
    seen = counts[counts > 0].double()
    assert len(seen) == 6
    assert float(((seen - rows / 6) ** 2 / (rows / 6)).sum()) < 25.7  # chi-square, 5 dof, 1e-4


def test_a_shared_plan_cancels_exactly() -> None:
    toy, other = small_toy(length=5, vocab_size=6), small_toy(seed=1, length=5, vocab_size=6)
    texts = torch.randint(0, 5, (40, 5), generator=torch.Generator().manual_seed(2))
    policy = of(toy, texts, n=4, seed=3)
    for grad in (False, True):
        reference = of(toy, texts, masks=policy.masks, grad=grad)
        assert torch.equal(policy.value, reference.value)
        assert torch.equal(policy.logprob, reference.logprob)
    same = texts[:1].expand(4000, -1)
    shared = of(toy, same, n=4, seed=3)
    gap = of(other, same, masks=shared.masks).value - shared.value
    apart = of(other, same, n=4, seed=4).value - shared.value
    assert float(gap.var()) < 0.9 * float(apart.var())
    assert torch.equal(of(toy, texts, n=4, seed=3).value, policy.value)
    assert not torch.equal(of(toy, texts, n=4).value, of(toy, texts, n=4).value)


def test_masks_do_not_follow_the_draws_of_a_run() -> None:
    """The same seeds for sampling and for the masks: their numbers are of different streams."""
    seeds = ops.row_seeds(0, 4000)
    rng, like = ops.Rng.from_seeds(seeds), torch.zeros(4000, 2)
    masks = rng.uniform(ops.Stream.MASK, like)
    for stream in set(ops.Stream) - {ops.Stream.MASK}:
        r = torch.corrcoef(torch.stack([masks[:, 0], rng.uniform(stream, like)[:, 0]]))[0, 1]
        assert abs(float(r)) < 0.07


@pytest.mark.parametrize("scheme", ["count", "enumerate"])
def test_gradients_are_those_of_finite_differences(scheme: str) -> None:
    base = small_toy()
    texts = TEXTS[::5]
    plan = of(base, texts, scheme=scheme, seed=1 if scheme == "count" else None).masks

    class Trained(FixtureToy):
        def __init__(self, embedding: Tensor) -> None:
            super().__init__(embedding.detach(), base.positions, base.mask_column)
            self.embedding = embedding

    def value(embedding: Tensor) -> tuple[Tensor, Tensor]:
        found = of(Trained(embedding), texts, masks=plan)
        return found.value, found.logprob

    embedding = base.embedding.clone().requires_grad_()
    assert torch.autograd.gradcheck(value, (embedding,))
    assert value(embedding)[0].requires_grad
    assert not of(Trained(embedding), texts, masks=plan, grad=False).value.requires_grad


def test_times_of_a_conditioned_model() -> None:
    told: list[Tensor] = []

    class Timed(FixtureToy):
        def forward(self, inputs: Pass) -> DenoiserOutput:
            assert inputs.t is not None
            told.append(torch.stack([inputs.t, (inputs.tokens == 3).double().mean(1)]))
            return super().forward(inputs)

    base = small_toy()
    timed = Timed(base.embedding, base.positions, base.mask_column)
    timed.time_conditioned = True
    for timed.schedule in (None, LINEAR):
        of(timed, TEXTS, scheme="enumerate")
    t, masked = torch.cat(told, 1)
    assert (t - masked).abs().max() <= 1e-12


def test_what_has_no_bound_is_refused() -> None:
    toy = small_toy()
    long = small_toy(length=13, vocab_size=6)
    maskless = wrap(lambda input_ids: toy.logits(input_ids), vocab_size=4, mask_token_id=None)
    plan = of(toy, TEXTS, seed=0).masks
    refused: list[tuple[str, Denoiser, Tensor, dict[str, Any]]] = [
        ("uniform noise", maskless, TEXTS, {}),
        ("the mask id 3", toy, torch.full((1, 3), 3), {}),
        ("scheme='counts'", toy, TEXTS, {"scheme": "counts"}),
        ("n=0", toy, TEXTS, {"n": 0}),
        ("must be even", toy, TEXTS, {"n": 3, "scheme": "coupled"}),
        ("leave n out", toy, TEXTS, {"n": 3, "scheme": "mean_field"}),
        ("2 \\*\\* 13", long, torch.zeros(1, 13, dtype=torch.int64), {"scheme": "enumerate"}),
        ("batch_size=0", toy, TEXTS, {"batch_size": 0}),
        ("leave n and seed out", toy, TEXTS, {"masks": plan, "n": 2}),
        ("as the tokens", toy, TEXTS[:3], {"masks": plan}),
    ]
    for why, denoiser, tokens, options in refused:
        with pytest.raises(ValueError, match=why):
            of(denoiser, tokens, **options)
    with pytest.raises(ValueError, match="not editable"):
        elbo(toy, TEXTS, editable=torch.zeros_like(TEXTS).bool(), masks=plan)
    toy.carries = True
    with pytest.raises(ValueError, match="carries a state"):
        of(toy, TEXTS)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (torch.zeros(1, 3), "tokens are torch.float32: must be token ids"),
        (torch.tensor([[0, 99, 1]]), r"tokens\[0, 1\] is 99: must be an id in \[0, 5\)"),
        (torch.tensor([[0, 1, -1]]), r"tokens\[0, 2\] is -1"),
    ],
)
def test_what_is_no_text_of_the_model_is_refused(tokens: Tensor, message: str) -> None:
    model = wrap(lambda ids: torch.zeros(*ids.shape, 5), vocab_size=5, mask_token_id=4)
    everywhere = torch.ones(1, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match=message):
        elbo(model, tokens, editable=everywhere)
    with pytest.raises(ValueError, match=message):
        sample(model, samplers.LLaDA(), tokens, ~everywhere, seeds=[1])
    with pytest.raises(TypeError, match="run is an int: must be the output of"):
        replay(model, 3)  # type: ignore[arg-type]

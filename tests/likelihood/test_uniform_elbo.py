"""The bound of uniform noise: tight for one token, equal to enumeration, below the exact law."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from dlm_sampling import Denoiser, uniform_elbo, wrap
from dlm_sampling.likelihood.uniform_elbo import levels, prior_kl
from dlm_sampling.schedules import LOG_LINEAR
from dlm_sampling.testing.laws import all_states, exact_chain_law
from dlm_sampling.types import PredictionKind

SIZE, STEPS = 3, 6


def toy(
    length: int, *, oracle: bool = False, kind: PredictionKind = "leave_one_out"
) -> tuple[Denoiser, Tensor]:
    """A model of `length` symbols and the law of its data; the oracle is of one symbol."""
    rng = torch.Generator().manual_seed(5)
    joint = torch.randn(SIZE**length, generator=rng, dtype=torch.float64).mul(1.5).softmax(0)
    table = torch.randn(length, SIZE, SIZE, generator=rng, dtype=torch.float64)

    def logits(input_ids: Tensor, t: Tensor) -> Tensor:
        if oracle:
            loo = joint.log().expand(len(input_ids), 1, SIZE)
        else:
            left = table[torch.arange(length), input_ids.roll(1, dims=1)]
            loo = (left * (1.5 - t)[:, None, None]).log_softmax(-1)
        if kind == "leave_one_out":
            return loo
        a = LOG_LINEAR.alpha(t)[:, None, None]
        here = torch.nn.functional.one_hot(input_ids, SIZE)
        return loo + (a * here + (1 - a) / SIZE).log()

    model = wrap(logits, vocab_size=SIZE, mask_token_id=None, kind=kind, schedule=LOG_LINEAR)
    return model, joint


def of(model: Denoiser, x0: Tensor, **options: Any) -> Tensor:
    """Every position is scored where none is named."""
    return uniform_elbo(model, x0, steps=STEPS, **options).value


def enumerated(model: Denoiser, x0: Tensor, editable: Tensor | None = None) -> float:
    """The bound on one sequence [L], summed over all steps and noised sequences, with its own
    arithmetic: Bayes' rule over two noised tokens."""
    editable = torch.ones_like(x0, dtype=torch.bool) if editable is None else editable
    total = -int(editable.sum()) * prior_kl(LOG_LINEAR.eps, SIZE)
    states = all_states(len(x0), SIZE)
    states = states[((states == x0) | editable).all(1)]
    eye = torch.eye(SIZE, dtype=torch.float64)
    for k in range(1, STEPS + 1):
        t, a, s = (float(v) for v in levels(model, torch.tensor([k]), STEPS))
        kernel = a / s * eye + (1 - a / s) / SIZE  # q(x_t | x_s), symmetric
        forward = s * eye + (1 - s) / SIZE  # q(x_s | x0)
        for x_t in states:
            law = model.logits(x_t[None], t=torch.tensor([t], dtype=torch.float64))[0].softmax(-1)
            here, kl = 1.0, 0.0
            for i in editable.nonzero().flatten().tolist():
                q = kernel[x_t[i]] * forward[x0[i]]
                p = kernel[x_t[i]] * (law[i] @ forward)
                here *= float(a * eye[x0[i], x_t[i]] + (1 - a) / SIZE)
                q, p = q / q.sum(), p / p.sum()
                kl += float((torch.xlogy(q, q) - torch.xlogy(q, p)).sum())
            total -= here * kl
    return total


def test_one_token_with_the_exact_law_loses_only_at_the_start() -> None:
    model, law = toy(1, oracle=True)
    found = -sum(float(law[v]) * enumerated(model, torch.tensor([v])) for v in range(SIZE))
    entropy = -float(torch.xlogy(law, law).sum())
    first = LOG_LINEAR.eps * law + (1 - LOG_LINEAR.eps) / SIZE
    assert math.isclose(found, entropy + float((first * (first * SIZE).log()).sum()), rel_tol=1e-12)


@pytest.mark.parametrize("n", [1, 8])
@pytest.mark.parametrize("kind", ["leave_one_out", "posterior"])
def test_the_estimate_is_that_of_the_enumeration(kind: PredictionKind, n: int) -> None:
    model, _ = toy(2, kind=kind)
    x0 = torch.tensor([2, 0])
    value = of(model, x0.expand(20_000, -1), n=n, seed=0)
    error = float(value.std()) / len(value) ** 0.5
    assert error < 0.03
    assert abs(float(value.mean()) - enumerated(toy(2)[0], x0)) < 4 * error


def test_context_stays_clean() -> None:
    model, _ = toy(2)
    x0, editable = torch.tensor([2, 0]), torch.tensor([True, False])
    rows = torch.ones(20_000, 1, dtype=torch.int64) * x0
    found = uniform_elbo(model, rows, editable=editable.expand_as(rows), n=4, steps=STEPS, seed=3)
    error = float(found.value.std()) / len(rows) ** 0.5
    exact = enumerated(model, x0, editable)
    assert abs(float(found.value.mean()) - exact) < 4 * error < 0.2
    assert abs(exact - enumerated(model, x0)) > 0.5
    assert (found.logprob[:, 1] == 0).all()
    assert (found.logprob.sum(1) - found.value).abs().max() <= 1e-12
    assert (found.terms.mean(1) - found.value).abs().max() <= 1e-12
    assert found.nfe.unique().tolist() == [4]


def test_it_bounds_the_law_of_the_ancestral_sampler() -> None:
    model, _ = toy(2)

    def step(x: Tensor, done: int) -> Tensor:
        t, alpha, later = levels(model, torch.tensor([STEPS - done]), STEPS)
        law = model.logits(x, t=t.expand(len(x))).softmax(-1)
        return model.process.reverse(law, x, alpha, later)

    start = torch.full((SIZE**2,), SIZE**-2.0, dtype=torch.float64)
    law = exact_chain_law(step, STEPS, length=2, vocab_size=SIZE, start=start)
    for x0, p in zip(all_states(2, SIZE), law, strict=True):
        gap = float(p.log()) - enumerated(model, x0)
        assert 0 < gap < 1.0


def test_the_steps_of_a_row_are_spread() -> None:
    """More draws keep the mean, and systematic ones vary less than independent ones."""
    model, _ = toy(2)
    states = all_states(2, SIZE).repeat(2000, 1)
    one, four = of(model, states, n=1, seed=1), of(model, states, n=4, seed=2)
    error = (float(one.var() + four.var()) / len(one)) ** 0.5
    assert abs(float(one.mean() - four.mean())) < 4 * error
    assert float(four.var()) < float(one.var()) / 4


def test_rows_depend_on_their_seed_alone() -> None:
    model, _ = toy(3)
    tokens = all_states(3, SIZE)
    value = of(model, tokens, n=3, seed=list(range(27)))
    some = torch.tensor([5, 2])
    assert torch.equal(of(model, tokens[some], n=3, seed=some.tolist()), value[some])
    assert torch.equal(of(model, tokens, n=3, seed=list(range(27)), batch_size=4), value)


def test_other_models_and_arguments_are_refused() -> None:
    masked = wrap(lambda input_ids: torch.zeros(*input_ids.shape, 3), vocab_size=3, mask_token_id=2)
    bare = wrap(lambda ids: torch.zeros(*ids.shape, 3), vocab_size=3, mask_token_id=None)
    model, _ = toy(2)
    x0 = torch.zeros(1, 2, dtype=torch.int64)
    for why, denoiser, tokens, options in [
        ("'absorbing'.*elbo", masked, x0, {}),
        ("schedule None", bare, x0, {}),
        ("n=0", model, x0, {"n": 0}),
        ("batch_size=0", model, x0, {"batch_size": 0}),
        (r"tokens\[0, 1\] is 3", model, torch.tensor([[0, 3]]), {}),
    ]:
        with pytest.raises(ValueError, match=why):
            of(denoiser, tokens, **options)
    with pytest.raises(TypeError, match=r"n=1\.5"):
        of(model, x0, n=1.5)

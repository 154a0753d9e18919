"""The bound of uniform noise: tight for one token, equal to enumeration, above the exact law."""

from __future__ import annotations

import math

import pytest
import torch
from dlm_eval.judges.uniform_bound import prior_kl, step_kl, uniform_bound
from torch import Tensor

from dlm_sampling import Denoiser, wrap
from dlm_sampling.schedules import LOG_LINEAR
from dlm_sampling.testing.laws import all_states, exact_chain_law

SIZE, STEPS = 3, 6


def toy(length: int, *, oracle: bool = False) -> tuple[Denoiser, Tensor]:
    """A model of `length` symbols and the law of its data; the oracle is of one symbol."""
    rng = torch.Generator().manual_seed(5)
    joint = torch.randn(SIZE**length, generator=rng, dtype=torch.float64).mul(1.5).softmax(0)
    table = torch.randn(length, SIZE, SIZE, generator=rng, dtype=torch.float64)

    def logits(input_ids: Tensor, t: Tensor) -> Tensor:
        if oracle:
            return joint.log().expand(len(input_ids), 1, SIZE)
        left = table[torch.arange(length), input_ids.roll(1, dims=1)]
        return left * (1.5 - t)[:, None, None]

    return wrap(
        logits, vocab_size=SIZE, mask_token_id=None, kind="leave_one_out", schedule=LOG_LINEAR
    ), joint


def times(k: int) -> tuple[Tensor, Tensor, Tensor]:
    """t, alpha_t and alpha_s of step k, [1]."""
    t = torch.tensor([k / STEPS], dtype=torch.float64)
    return t, LOG_LINEAR.alpha(t), LOG_LINEAR.alpha(t - 1 / STEPS)


def enumerated(model: Denoiser, x0: Tensor) -> float:
    """The bound on one sequence [L], summed over all steps and noised sequences."""
    states = all_states(len(x0), SIZE)
    clean = x0.expand(len(states), -1)
    total = len(x0) * prior_kl(LOG_LINEAR.eps, SIZE)
    for k in range(1, STEPS + 1):
        t, alpha, later = (value.expand(len(states)) for value in times(k))
        here = (states == clean) * alpha[:, None] + (1 - alpha[:, None]) / SIZE
        total += float((here.prod(1) * step_kl(model, clean, states, t, alpha, later)).sum())
    return total


def test_one_token_with_the_exact_law_loses_only_at_the_start() -> None:
    model, law = toy(1, oracle=True)
    found = sum(float(law[v]) * enumerated(model, torch.tensor([v])) for v in range(SIZE))
    entropy = -float(torch.xlogy(law, law).sum())
    first = LOG_LINEAR.eps * law + (1 - LOG_LINEAR.eps) / SIZE
    assert math.isclose(found, entropy + float((first * (first * SIZE).log()).sum()), rel_tol=1e-12)


def test_the_estimate_is_that_of_the_enumeration() -> None:
    model, _ = toy(2)
    x0 = torch.tensor([2, 0])
    nats = uniform_bound(model, x0.expand(40_000, -1), samples=8, seed=0, batch=40_000, steps=STEPS)
    error = float(nats.std()) / len(nats) ** 0.5
    assert error < 0.01
    assert abs(float(nats.mean()) - enumerated(model, x0)) < 4 * error


def test_it_bounds_the_law_of_the_ancestral_sampler() -> None:
    model, _ = toy(2)

    def step(x: Tensor, done: int) -> Tensor:
        t, alpha, later = times(STEPS - done)
        law = model.logits(x, t=t.expand(len(x))).softmax(-1)
        return model.process.reverse(law, x, alpha, later)

    start = torch.full((SIZE**2,), SIZE**-2.0, dtype=torch.float64)
    law = exact_chain_law(step, STEPS, length=2, vocab_size=SIZE, start=start)
    for x0, p in zip(all_states(2, SIZE), law, strict=True):
        gap = enumerated(model, x0) + float(p.log())
        assert 0 < gap < 1.0


def test_more_samples_keep_the_mean() -> None:
    model, _ = toy(2)
    states = all_states(2, SIZE).repeat(3000, 1)
    one = uniform_bound(model, states, samples=1, seed=1, batch=9000, steps=STEPS)
    four = uniform_bound(model, states, samples=4, seed=2, batch=9000, steps=STEPS)
    assert float(four.std()) < float(one.std())
    error = (float(one.var() + four.var()) / len(one)) ** 0.5
    assert abs(float(one.mean() - four.mean())) < 4 * error


def test_other_models_are_refused() -> None:
    masked = wrap(lambda input_ids: torch.zeros(*input_ids.shape, 3), vocab_size=3, mask_token_id=2)
    with pytest.raises(ValueError, match="'absorbing'"):
        uniform_bound(masked, torch.zeros(1, 2).long(), samples=1, seed=0, batch=1)

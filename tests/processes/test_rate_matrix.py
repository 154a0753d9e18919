"""Processes of general matrices: uniform noise is one of them, and the loop draws their chains."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dlm_sampling import ops
from dlm_sampling.engine.sample import sample
from dlm_sampling.processes import MatrixChain, RateMatrix, Uniform, matrices
from dlm_sampling.samplers import Ancestral, Euler, TauLeaping
from dlm_sampling.samplers.parts.grid import GridSampler
from dlm_sampling.schedules import LOG_LINEAR, LogLinear, grid_time
from dlm_sampling.testing import (
    NoisyEnumerableDenoiser,
    chi_square,
    count_states,
    exact_chain_law,
    product_law,
    tv,
)
from dlm_sampling.types import PredictionKind, Process

SYMBOLS, LENGTH, ROWS, P_LIMIT = 4, 2, 6_000, 1e-4
KINDS: tuple[PredictionKind, ...] = ("posterior", "leave_one_out", "log_score")
GENERATOR = torch.Generator().manual_seed(0)
LOO = torch.rand(6, SYMBOLS, generator=GENERATOR).double().softmax(-1)
X = torch.tensor([0, 1, 2, 3, 1, 2])


def one_way() -> Tensor:
    """Rates that no law makes reversible: a cycle."""
    rates = torch.roll(torch.eye(SYMBOLS, dtype=torch.float64), 1, 1)
    return rates - torch.eye(SYMBOLS).double()


def level(value: float) -> Tensor:
    return torch.full((len(X),), value).double()


@pytest.mark.parametrize("alpha", [1e-3, 0.2, 0.7, 0.99])
def test_uniform_rates_give_the_uniform_process(alpha: float) -> None:
    general, uniform = RateMatrix(matrices.uniform_rates(SYMBOLS)), Uniform()
    a, s, slope = level(alpha), level((1 + alpha) / 2), level(0.8)
    close = {"atol": 1e-11, "rtol": 1e-9}
    torch.testing.assert_close(general.forward(LOO, a), uniform.forward(LOO, a), **close)
    torch.testing.assert_close(
        general.reverse(LOO, X, a, s), uniform.reverse(LOO, X, a, s), **close
    )
    for source in KINDS:
        values = uniform.convert(LOO, X, a, "leave_one_out", source)
        for target in KINDS:
            torch.testing.assert_close(
                general.convert(values, X, a, source, target),
                uniform.convert(values, X, a, source, target),
                **close,
            )
    post, score = (
        uniform.convert(LOO, X, a, "leave_one_out", k) for k in ("posterior", "log_score")
    )
    torch.testing.assert_close(
        general.rates(post, X, a, slope), uniform.rates(score, X, a, slope), **close
    )
    torch.testing.assert_close(
        general.noising_rates(X, a, slope, LOO), uniform.noising_rates(X, a, slope, LOO), **close
    )


def slightly_irreversible() -> Tensor:
    """Rates of about 1 with a circulation of 1 percent, so near to reversible."""
    weights = torch.rand(SYMBOLS, SYMBOLS, generator=torch.Generator().manual_seed(3)).double()
    rates = (weights + weights.T + 1.0 + 0.01 * one_way()).fill_diagonal_(0.0)
    return rates - torch.diag(rates.sum(1))


@pytest.mark.parametrize(
    "rates",
    [
        slightly_irreversible(),
        matrices.banded_rates(SYMBOLS, 2),
        matrices.gaussian_rates(SYMBOLS, 1.5),
        one_way(),
    ],
)
def test_kernels_are_exponentials_and_the_prior_is_where_they_lead(rates: Tensor) -> None:
    process = RateMatrix(rates)
    torch.testing.assert_close(
        process.kernel(0.8, 0.3), torch.matrix_exp(rates * torch.log(torch.tensor(8 / 3).double()))
    )
    far = process.kernel(1.0, 1e-11)
    torch.testing.assert_close(far, process.prior_law.expand(SYMBOLS, -1), atol=1e-5, rtol=0)


def processes() -> dict[str, Process]:
    steps = [matrices.gaussian_matrix(SYMBOLS, 0.4 + 0.2 * k) for k in range(8)]
    return {
        "gaussian": RateMatrix(matrices.gaussian_rates(SYMBOLS, 1.5)),
        "one-way": RateMatrix(one_way()),
        "chain": MatrixChain(steps),
    }


def joint() -> Tensor:
    weights = torch.randn([SYMBOLS] * LENGTH, generator=torch.Generator().manual_seed(1)).double()
    return weights.flatten().softmax(0).view_as(weights)


def propagated(toy: NoisyEnumerableDenoiser, sampler: GridSampler, steps: int) -> Tensor:
    process, total = toy.process, torch.tensor(steps)

    def step(states: Tensor, k: int) -> Tensor:
        t, s = (grid_time(torch.tensor(i), total, sampler.t_end) for i in (k, k + 1))
        alpha = sampler.schedule.alpha(t)
        loo = toy(states, t=toy.times.time_of(alpha).expand(len(states))).values.exp()
        if k == steps:
            return process.reverse(loo, states, alpha, torch.ones_like(alpha))
        values = process.convert(loo, states, alpha, "leave_one_out", sampler.reads(process))
        return sampler.next_law(process, values, states, t, s)

    prior = process.prior(torch.arange(10_000).unsqueeze(0), ops.Rng.from_seeds([0]), SYMBOLS)
    law: Tensor = getattr(process, "prior_law")  # noqa: B009
    assert chi_square(torch.bincount(prior[0], minlength=SYMBOLS), law).p > P_LIMIT
    start = product_law(law.expand(1, LENGTH, SYMBOLS))[0]
    return exact_chain_law(step, steps + 1, length=LENGTH, vocab_size=SYMBOLS, start=start)


CASES: list[tuple[str, GridSampler, PredictionKind]] = [
    ("gaussian", Ancestral(LOG_LINEAR, 1e-3, "sample"), "posterior"),
    ("gaussian", Euler(LOG_LINEAR, 1e-2, "sample"), "leave_one_out"),
    ("one-way", TauLeaping(LOG_LINEAR, 1e-2, "sample"), "log_score"),
    ("one-way", Ancestral(LOG_LINEAR, 1e-3, "sample"), "leave_one_out"),
    ("chain", Ancestral(LogLinear(0.0), 0.125, "sample"), "posterior"),
    ("chain", Ancestral(LogLinear(0.0), 0.125, "sample"), "leave_one_out"),
]


@pytest.mark.parametrize(("name", "sampler", "kind"), CASES)
def test_the_loop_draws_the_law_of_the_chain(
    name: str, sampler: GridSampler, kind: PredictionKind
) -> None:
    process = processes()[name]
    schedule = LogLinear(0.0) if name == "chain" else LOG_LINEAR
    toy = NoisyEnumerableDenoiser(joint(), kind=kind, process=process, schedule=schedule)
    exact = NoisyEnumerableDenoiser(joint(), process=process, schedule=schedule)
    tokens = torch.zeros(ROWS, LENGTH, dtype=torch.int64)
    seeds = ops.row_seeds(5, ROWS)
    out = sample(toy, sampler, tokens, tokens == 0, seeds=seeds, steps=7)
    law = propagated(exact, sampler, 7)
    assert chi_square(count_states(out.tokens, SYMBOLS), law).p > P_LIMIT


def test_more_steps_come_closer_to_the_data() -> None:
    process = RateMatrix(matrices.gaussian_rates(SYMBOLS, 1.5))
    toy = NoisyEnumerableDenoiser(joint(), process=process)
    errors = [
        tv(propagated(toy, Ancestral(LOG_LINEAR, 1e-5, "sample"), n), joint().flatten())
        for n in (8, 32)
    ]
    assert errors[1] < errors[0] / 3


def test_what_cannot_be_a_chain_is_refused() -> None:
    with pytest.raises(ValueError, match="sum to 0"):
        RateMatrix(torch.eye(3))
    with pytest.raises(ValueError, match=">= 0"):
        RateMatrix(torch.tensor([[1.0, -1.0], [0.0, 0.0]]))
    with pytest.raises(ValueError, match=r"steps\[1\]"):
        MatrixChain([torch.eye(3), 2 * torch.eye(3)])
    with pytest.raises(ValueError, match="ancestral"):
        MatrixChain([torch.eye(3)]).generator()
    with pytest.raises(ValueError, match="4 tokens"):
        like = torch.zeros(1, 2, dtype=torch.int64)
        RateMatrix(one_way()).prior(like, ops.Rng.from_seeds([0]), 7)


def test_noised_tokens_have_the_forward_law() -> None:
    process, rows = RateMatrix(one_way()), 4_000
    x = torch.full((rows, 2), 3)
    found = process.noised(x, 0.6, ops.Rng.from_seeds(ops.row_seeds(5, rows)), SYMBOLS)
    clean = torch.nn.functional.one_hot(x[:1], SYMBOLS).double()
    law = process.forward(clean, torch.full((1, 2), 0.6).double())[0, 0]
    assert chi_square(torch.bincount(found.flatten(), minlength=SYMBOLS), law).p > P_LIMIT
    assert int((found == SYMBOLS - 1).sum()) > 0

"""Identities between solvers and kinds of prediction, to 1e-12, on random laws."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dlm_sampling.processes import Absorbing, Uniform, conversions, jumps, matrices
from dlm_sampling.processes.flow import conditional_jump_law, shortcut_law
from dlm_sampling.processes.planned import noise_from_clean
from dlm_sampling.processes.psi import psi_law
from dlm_sampling.processes.theta import rk2_rates, rk2_weights, trapezoidal_rates
from dlm_sampling.processes.tweedie import tweedie_absorbing, tweedie_uniform
from dlm_sampling.schedules import (
    Cosine,
    Exponential,
    Geometric,
    HalfCosine,
    LogLinear,
    Polynomial,
    Schedule,
    hazard,
    masking_rate,
    reverse_rate,
    time_after_hazard,
)
from dlm_sampling.testing import oracles
from dlm_sampling.types import PredictionKind

SIZE, MASK = 5, 4
KINDS: tuple[PredictionKind, ...] = ("posterior", "leave_one_out", "log_score")
SCHEDULES: list[Schedule] = [
    LogLinear(0.0),
    LogLinear(0.01),
    Cosine(),
    Cosine(power=2),
    HalfCosine(),
    Geometric(),
    Polynomial(2.0),
    Exponential(4.0),
]


def laws(seed: int, size: int = SIZE, rows: int = 6) -> tuple[Tensor, Tensor]:
    """Random laws [rows, 3, size] and tokens [rows, 3]."""
    g = torch.Generator().manual_seed(seed)
    p = (2 * torch.randn(rows, 3, size, generator=g, dtype=torch.float64)).softmax(-1)
    return p, torch.randint(size, (rows, 3), generator=g)


def masked(seed: int) -> tuple[Tensor, Tensor]:
    """Random laws without mass at the mask; about every second position is masked."""
    p, x = laws(seed)
    p[..., MASK] = 0.0
    x = torch.where(
        torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) < 0.5, MASK, x
    )
    return p / p.sum(-1, keepdim=True), x


def number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def same(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


@pytest.mark.parametrize("eps", [0.0, 1e-3, 0.2])
def test_euler_is_tweedie_is_ancestral_under_log_linear_masking(eps: float) -> None:
    p, x = masked(1)
    process, schedule = Absorbing(MASK), LogLinear(eps)
    for t, s in ((0.9, 0.7), (0.5, 0.1), (0.03, 0.02), (0.4, 0.0)):
        t, s = number(t), number(s)
        a, b = schedule.alpha(t), schedule.alpha(s)
        ancestral = process.reverse(p, x, a, b)
        rates = process.reverse_rates(p, x, reverse_rate(schedule, t))
        score = conversions.score_from_masked_law(p, x, a, MASK)
        from_score = oracles.absorbing_score_rates(process, score, x, masking_rate(schedule, t))
        same(from_score, rates)
        same(jumps.euler_law(rates, x, t - s), ancestral)
        same(tweedie_absorbing(score, x, a, b, MASK), ancestral)


def test_under_another_schedule_euler_is_not_ancestral() -> None:
    p, x = masked(2)
    process, schedule, t, s = Absorbing(MASK), HalfCosine(), number(0.7), number(0.5)
    ancestral = process.reverse(p, x, schedule.alpha(t), schedule.alpha(s))
    rates = process.reverse_rates(p, x, reverse_rate(schedule, t))
    assert float((jumps.euler_law(rates, x, t - s) - ancestral).abs().max()) > 1e-3


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_a_leap_in_hazard_time_is_the_ancestral_step(schedule: Schedule) -> None:
    p, x = masked(3)
    process, t, s = Absorbing(MASK), number(0.8), number(0.35)
    rates = process.reverse_rates(p, x, number(1.0))
    ancestral = process.reverse(p, x, schedule.alpha(t), schedule.alpha(s))
    same(jumps.last_event_law(rates, x, hazard(schedule, t, s)), ancestral)
    same(shortcut_law(process.clean_law(p, x), x, schedule.alpha(t), schedule.alpha(s)), ancestral)
    half = 0.5 * hazard(schedule, t, s)
    same(hazard(schedule, t, time_after_hazard(schedule, t, half)), half)


@pytest.mark.parametrize("alphas", [(0.1, 0.3), (0.4, 0.95), (0.3, 1.0), (0.0, 0.2)])
def test_plug_in_is_mixture_is_tweedie(alphas: tuple[float, float]) -> None:
    loo, x = laws(4)
    a, b = map(number, alphas)
    plug = Uniform().reverse(loo, x, a, b)
    post = conversions.convert_uniform(loo, x, a, "leave_one_out", "posterior")
    same(plug, Uniform().mixture(post, x, a, b))
    if alphas[0] > 0:
        score = conversions.convert_uniform(loo, x, a, "leave_one_out", "log_score")
        same(plug, tweedie_uniform(score, x, a, b))
    if alphas[1] == 1.0:
        same(plug, post)


def test_wrong_pairings_are_wrong() -> None:
    loo, x = laws(5)
    a, b = number(0.4), number(0.8)
    post = conversions.convert_uniform(loo, x, a, "leave_one_out", "posterior")
    plug = Uniform().reverse(loo, x, a, b)
    assert float((plug - Uniform().reverse(post, x, a, b)).abs().max()) > 0.05
    assert float((plug - Uniform().mixture(loo, x, a, b)).abs().max()) > 0.05


@pytest.mark.parametrize("source", KINDS)
@pytest.mark.parametrize("target", KINDS)
def test_conversions_go_round(source: PredictionKind, target: PredictionKind) -> None:
    loo, x = laws(6)
    alpha = torch.rand(x.shape, generator=torch.Generator().manual_seed(6)).double() * 0.8 + 0.1
    start = conversions.convert_uniform(loo, x, alpha, "leave_one_out", source)
    there = conversions.convert_uniform(start, x, alpha, source, target)
    same(conversions.convert_uniform(there, x, alpha, target, source), start)


def test_noise_probability_splits_the_posterior() -> None:
    loo, x = laws(7)
    alpha = number(0.35)
    post = conversions.posterior_from_leave_one_out(loo, x, alpha)
    rho = noise_from_clean(loo.gather(-1, x.unsqueeze(-1)), alpha, SIZE)
    here = torch.nn.functional.one_hot(x, SIZE).double()
    same(post, rho * loo + (1 - rho) * here)


def test_a_score_of_masks_keeps_the_law_and_drops_its_scale() -> None:
    p, x = masked(8)
    score = conversions.score_from_masked_law(p, x, number(0.3), MASK)
    at_masks = (x == MASK).unsqueeze(-1)
    same(conversions.carried_over(7.0 * score, x, MASK) * at_masks, p * at_masks)


def test_the_matrix_form_contains_the_other_processes() -> None:
    loo, x = laws(9)
    a, b = number(0.3), number(0.6)
    step = matrices.uniform_matrix(SIZE, float(1 - a / b))
    before = matrices.uniform_matrix(SIZE, float(1 - b))
    plug = Uniform().reverse(loo, x, a, b)
    same(oracles.reverse_from_leave_one_out(loo, x, step, before), plug)
    p, y = masked(9)
    step, before = (matrices.absorbing_matrix(SIZE, float(1 - v), MASK) for v in (a / b, b))
    clean = Absorbing(MASK).clean_law(p, y)
    same(
        oracles.reverse_from_posterior(clean, y, step, before), Absorbing(MASK).reverse(p, y, a, b)
    )


def test_rates_of_a_matrix_are_the_score_rates() -> None:
    loo, x = laws(10)
    alpha, beta = number(0.4), number(1.7)
    generator = matrices.uniform_matrix(SIZE, 1.0) - torch.eye(SIZE, dtype=torch.float64)
    transition = matrices.transition(generator, float(-alpha.log()))
    same(transition, matrices.uniform_matrix(SIZE, float(1 - alpha)))
    post = conversions.posterior_from_leave_one_out(loo, x, alpha)
    score = conversions.score_from_leave_one_out(loo, x, alpha)
    same(
        oracles.reverse_rates(post, x, beta * generator, transition),
        Uniform().reverse_rates(score, x, beta),
    )


@pytest.mark.parametrize(
    "made",
    [
        matrices.uniform_matrix(6, 0.3),
        matrices.absorbing_matrix(6, 0.3, 5),
        matrices.banded_matrix(6, 0.3, 2),
        matrices.gaussian_matrix(6, 0.4),
        matrices.transition(
            matrices.nearest_neighbour_rates(
                torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), 2
            ),
            0.7,
        ),
    ],
    ids=["uniform", "absorbing", "banded", "gaussian", "neighbours"],
)
def test_matrices_are_stochastic(made: Tensor) -> None:
    assert bool((made >= 0).all())
    same(made.sum(1), torch.ones(6).double())


@pytest.mark.parametrize("name", ["banded", "gaussian", "neighbours"])
def test_ordered_and_neighbour_noise_is_symmetric(name: str) -> None:
    embeddings = torch.randn(6, 3, generator=torch.Generator().manual_seed(1))
    made = {
        "banded": matrices.banded_matrix(6, 0.3, 2),
        "gaussian": matrices.gaussian_matrix(6, 0.4),
        "neighbours": matrices.transition(matrices.nearest_neighbour_rates(embeddings, 2), 0.7),
    }[name]
    same(made, made.T)


def test_matrices_have_a_largest_size() -> None:
    with pytest.raises(ValueError, match="4096"):
        matrices.transition(torch.zeros(1, 1).expand(4097, 4097), 1.0)
    with pytest.raises(ValueError, match="rates has shape"):
        matrices.transition(torch.zeros(2, 3), 1.0)


def test_psi_at_one_is_the_reverse_step() -> None:
    p, x = masked(11)
    a, b = number(0.3), number(0.5)
    same(psi_law(Absorbing(MASK), p, x, a, b, 1.0), Absorbing(MASK).reverse(p, x, a, b))


def divergence_free_law(
    post: Tensor, x: Tensor, noise: Tensor, c: Tensor, free: Tensor, kappa: Tensor, h: Tensor
) -> Tensor:
    """One step at frozen rates c towards x1 and free (kappa 1[y = x1] + (1 - kappa) pi(y))."""
    return conditional_jump_law(post, x, noise, h * (c + free * kappa), h * free * (1 - kappa))


def test_divergence_free_term_of_weight_zero_is_the_library_jump() -> None:
    post, x = laws(12)
    c, k, h = number(2.0), number(0.3), number(0.2)
    law = divergence_free_law(post, x, Uniform().noise(post), c, number(0.0), k, h)
    same(law, jumps.mixture_law(post, x, -torch.expm1(-h * c)))


def test_divergence_free_law_is_the_sum_over_targets() -> None:
    post, x = laws(13)
    pi, c, free, k, h = Uniform().noise(post), *map(number, (2.0, 1.3, 0.3, 0.2))
    total = torch.zeros_like(post)
    for target in range(SIZE):
        rates = (free * (1 - k) * pi).expand(post.shape).clone()
        rates[..., target] += c + free * k
        total += post[..., target : target + 1] * jumps.last_event_law(rates, x, h)
    same(divergence_free_law(post, x, pi, c, free, k, h), total)


def test_theta_rules_with_equal_rates_are_one_leap() -> None:
    p, x = masked(14)
    rates = Absorbing(MASK).reverse_rates(p, x, number(1.0))
    for theta in (0.25, 0.5, 0.75):
        same(trapezoidal_rates(rates, rates, theta), rates)
        same(rk2_rates(rates, rates, theta), rates)
        assert sum(rk2_weights(theta)) == pytest.approx(1.0)


@pytest.mark.parametrize("theta", [0.0, 1.0, float("nan")])
def test_theta_is_checked(theta: float) -> None:
    with pytest.raises(ValueError, match="theta"):
        trapezoidal_rates(torch.ones(2), torch.ones(2), theta)


@pytest.mark.parametrize("noise", ["mask", "uniform"])
def test_the_corrector_leaves_the_marginal(noise: str) -> None:
    """p_t G = 0 for forward plus reverse rates, on a joint law of two positions."""
    joint = (torch.randn(3, 3, generator=torch.Generator().manual_seed(15)).double()).exp()
    joint, alpha, beta = joint / joint.sum(), 0.4, number(1.7)
    size = 4 if noise == "mask" else 3
    kernel = alpha * torch.eye(3, size, dtype=torch.float64)
    kernel = kernel + (1 - alpha) * (
        torch.tensor([0.0, 0, 0, 1]).double() if noise == "mask" else torch.ones(3).double() / 3
    )
    marginal = torch.einsum("ab,ac,bd->cd", joint, kernel, kernel)
    x = torch.cartesian_prod(torch.arange(size), torch.arange(size))
    pair = torch.einsum("ab,na,nb->nab", joint, kernel[:, x[:, 0]].T, kernel[:, x[:, 1]].T)
    post = torch.stack([pair.sum(2), pair.sum(1)], 1) / pair.sum((1, 2))[:, None, None]
    if noise == "mask":
        post = torch.nn.functional.pad(post, (0, 1))
        c = number(alpha) * beta / (1 - alpha)
        process = Absorbing(MASK - 1)
        rates = process.reverse_rates(post, x, c) + process.forward_rates(x, beta, post)
    else:
        score = conversions.convert_uniform(post, x, number(alpha), "posterior", "log_score")
        rates = Uniform().reverse_rates(score, x, beta) + Uniform().forward_rates(x, beta, score)
    flow = torch.zeros(size, size).double()
    for n, (i, j) in enumerate(x.tolist()):
        mass = marginal[i, j]
        flow[:, j] += mass * rates[n, 0]
        flow[i, :] += mass * rates[n, 1]
        flow[i, j] -= mass * rates[n].sum()
    same(flow, torch.zeros_like(flow))

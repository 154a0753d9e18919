"""Masking: its laws by enumeration; forward and reverse rates together keep the marginal law."""

from __future__ import annotations

import pytest
import torch

from dlm_sampling import ops
from dlm_sampling.processes import Absorbing, Uniform, conversions
from tests.processes.enumerated import filled, given_noisy, kernel, mask_noise, others
from tests.processes.random_laws import MASK, SIZE, laws, masked, number, same

NOISE, PI = Absorbing(MASK), mask_noise(SIZE, MASK)


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


@pytest.mark.parametrize("levels", [(0.0, 0.3), (0.4, 0.95), (0.3, 1.0), (0.5, 0.5)])
def test_the_step_is_bayes_rule(levels: tuple[float, float]) -> None:
    """Enumeration of clean and earlier token; a token says which one it was."""
    p, x = masked(21)
    known = torch.where((x == MASK).unsqueeze(-1), p, torch.eye(SIZE).double()[x])
    same(NOISE.clean_law(p, x), known)
    a, s = map(number, levels)
    if levels[0] > 0:
        joint = given_noisy(known, x, PI, *levels)
        same(NOISE.reverse(p, x, a, s), joint.sum(-2))
        same(NOISE.convert(p, x, a, "posterior", "leave_one_out"), joint.sum(-1))
    jump = (levels[1] - levels[0]) / (1 - levels[0])
    leave = others(jump * p * (x == MASK).unsqueeze(-1), x)
    same(NOISE.reverse(p, x, a, s), filled(leave, x))


def test_forward_and_noise_are_the_kernel() -> None:
    law, x = laws(22)
    for alpha in (0.0, 0.3, 1.0):
        same(NOISE.forward(law, number(alpha)), law @ kernel(alpha, PI))
    same(NOISE.noise(law), PI)
    rng = ops.Rng.from_seeds([0])
    assert NOISE.prior(x, rng, SIZE).tolist() == torch.full_like(x, MASK).tolist()


def test_rates_are_the_probabilities_of_a_short_step() -> None:
    """Both kernels are linear in the step, so a long step already shows the rates."""
    p, x = masked(23)
    alpha, slope, h = 0.4, 0.7, 0.1
    step = NOISE.reverse(p, x, number(alpha), number(alpha + slope * h))
    same(NOISE.rates(p, x, number(alpha), number(slope)), others(step, x) / h)
    same(NOISE.reverse_rates(p, x, number(slope / (1 - alpha))), others(step, x) / h)
    later = kernel((alpha - slope * h) / alpha, PI)[x]
    same(NOISE.noising_rates(x, number(alpha), number(slope), p), others(later, x) / h)
    same(NOISE.forward_rates(x, number(slope / alpha), p), others(later, x) / h)


def test_the_clock_reveals_masks_at_rate_1() -> None:
    alpha, wait = torch.tensor([0.0, 0.4, 0.9]).double(), torch.tensor([0.5, 2.0, 0.05]).double()
    after = NOISE.level_after(alpha, wait)
    same((1 - after) / (1 - alpha), torch.exp(-wait))
    same(NOISE.exit_integral(alpha, after, SIZE), wait)
    step = number(1e-7)
    slope = (NOISE.level_after(alpha, step) - alpha) / step
    torch.testing.assert_close(NOISE.unit_slope(alpha), slope, atol=1e-6, rtol=0)


def test_every_mask_leaves_at_the_bound() -> None:
    p, _ = laws(24, SIZE - 1)
    p, alpha, slope = torch.nn.functional.pad(p, (0, 1)), number(0.4), number(0.7)
    x = torch.full(p.shape[:-1], MASK)
    leaving = NOISE.rates(p, x, alpha, slope).sum(-1)
    same(NOISE.exit_bound(alpha, slope, SIZE).expand(x.shape), leaving)
    times = torch.linspace(0.9, 0.2, 20_001, dtype=torch.float64)
    bounds = NOISE.exit_bound(1 - times, torch.ones_like(times), SIZE)
    found = NOISE.exit_integral(number(0.1), number(0.8), SIZE)
    assert float(found) == pytest.approx(float(-torch.trapezoid(bounds, times)), rel=1e-7)

"""Absorbing and uniform rates: forward and reverse rates together keep the marginal law."""

from __future__ import annotations

import pytest
import torch

from dlm_sampling.processes import Absorbing, Uniform, conversions
from tests.processes.random_laws import MASK, number, same


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

"""The jump law of discrete flow matching, with its divergence-free term."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dlm_sampling.processes import Uniform, jumps
from dlm_sampling.processes.flow import conditional_jump_law, shortcut_law
from tests.processes.enumerated import filled
from tests.processes.random_laws import SIZE, laws, number, same


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


def test_edges_of_the_jump_law() -> None:
    """No rate at all stays; rates to noise alone are one leap; noise at x alone does not move."""
    post, x = laws(14)
    pi, none, some = Uniform().noise(post), number(0.0), number(0.7)
    here = torch.nn.functional.one_hot(x, SIZE).double()
    same(conditional_jump_law(post, x, pi, none, none), here)
    same(
        conditional_jump_law(post, x, pi, none, some),
        jumps.last_event_law(pi.expand(post.shape), x, some),
    )
    jump = 1.0 - math.exp(-0.7)
    same(conditional_jump_law(post, x, here, some, some), filled(jump * post, x))


def test_rates_of_the_jump_may_differ_by_position() -> None:
    post, x = laws(15)
    pi, g = Uniform().noise(post), torch.Generator().manual_seed(1)
    towards, around = torch.rand(2, *x.shape, generator=g).double()
    law = conditional_jump_law(post, x, pi, towards, around)
    for n in range(len(x)):
        for i in range(x.shape[1]):
            rates = towards[n, i], around[n, i]
            same(conditional_jump_law(post[n, i], x[n, i], pi, *rates), law[n, i])


@pytest.mark.parametrize("levels", [(0.1, 0.3), (0.4, 0.95), (0.0, 0.5)])
def test_the_shortcut_law_is_its_formula(levels: tuple[float, float]) -> None:
    """Jump with probability 1 - r^(1 - p(x)), to y with p(y) / (1 - p(x))."""
    post, x = laws(16)
    r = (1 - levels[1]) / (1 - levels[0])
    here = post.gather(-1, x.unsqueeze(-1))
    wanted = filled((1 - r ** (1 - here)) * post / (1 - here), x)
    same(shortcut_law(post, x, *map(number, levels)), wanted)

"""The jump law of discrete flow matching, with its divergence-free term."""

from __future__ import annotations

import torch
from torch import Tensor

from dlm_sampling.processes import Uniform, jumps
from dlm_sampling.processes.flow import conditional_jump_law
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

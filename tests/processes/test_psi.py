"""Psi-samplers: their law by enumeration, at any mixture, and where it is known."""

from __future__ import annotations

import pytest
import torch

from dlm_sampling.processes import Absorbing, Uniform
from dlm_sampling.processes.psi import Reversible, psi_law
from tests.processes.enumerated import given_noisy, kernel, mask_noise, uniform_noise
from tests.processes.random_laws import MASK, SIZE, laws, masked, number, same


def test_psi_at_one_is_the_reverse_step() -> None:
    p, x = masked(11)
    a, b = number(0.3), number(0.5)
    same(psi_law(Absorbing(MASK), p, x, a, b, 1.0), Absorbing(MASK).reverse(p, x, a, b))


@pytest.mark.parametrize("noise", ["mask", "uniform"])
@pytest.mark.parametrize("levels", [(0.3, 0.5), (0.1, 0.9), (0.6, 1.0)])
def test_psi_mixes_the_reverse_step_with_new_noise_on_the_prediction(
    noise: str, levels: tuple[float, float]
) -> None:
    """kappa P(x_s | x_t) + (1 - kappa) sum_k P(x0 = k | x_t) q_s(x_s | k), kappa by position."""
    masking = noise == "mask"
    p, x = masked(11) if masking else laws(11)
    pi = mask_noise(SIZE, MASK) if masking else uniform_noise(SIZE)
    process: Reversible = Absorbing(MASK) if masking else Uniform()
    # A token under masking is known, whatever the table says.
    p_read = torch.where((x != MASK).unsqueeze(-1), torch.eye(SIZE).double()[x], p)
    joint = given_noisy(p_read if masking else p, x, pi, *levels)
    kappa = torch.rand(x.shape, generator=torch.Generator().manual_seed(1)).double()
    for weight in (kappa, number(0.0), number(0.4)):
        k = weight.expand(x.shape).unsqueeze(-1)
        wanted = k * joint.sum(-2) + (1 - k) * joint.sum(-1) @ kernel(levels[1], pi)
        same(psi_law(process, p, x, number(levels[0]), number(levels[1]), weight), wanted)
    same(
        psi_law(process, p, x, number(levels[0]), number(levels[1]), 0.4),
        psi_law(process, p, x, number(levels[0]), number(levels[1]), number(0.4)),
    )

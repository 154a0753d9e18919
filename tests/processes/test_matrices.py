"""Matrices of noise: stochastic, symmetric where the noise is, the other processes among them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dlm_sampling.processes import Absorbing, Uniform, conversions, matrices
from dlm_sampling.testing import oracles
from tests.processes.random_laws import MASK, SIZE, laws, masked, number, same


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

"""Matrices of noise: stochastic, symmetric where the noise is, the other processes among them."""

from __future__ import annotations

import math
from collections.abc import Callable

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


def by_entry(size: int, rule: Callable[[int, int], float], total: float) -> Tensor:
    """A matrix from the rule of its entries off the diagonal; rows have this sum."""
    out = torch.zeros(size, size, dtype=torch.float64)
    for i in range(size):
        for j in range(size):
            out[i, j] = 0.0 if i == j else rule(i, j)
        out[i, i] = total - out[i].sum()
    return out


@pytest.mark.parametrize("size", [2, 5, 6])
@pytest.mark.parametrize("beta", [0.3, 1.0])
def test_transition_matrices_are_their_formulas(size: int, beta: float) -> None:
    same(matrices.uniform_matrix(size, beta), by_entry(size, lambda i, j: beta / size, 1.0))
    for mask in (0, size - 1):
        made = by_entry(size, lambda i, j, m=mask: beta if j == m else 0.0, 1.0)
        same(matrices.absorbing_matrix(size, beta, mask), made)
    for width in (1, 2, size):
        made = by_entry(size, lambda i, j, w=width: (abs(i - j) <= w) * beta / size, 1.0)
        same(matrices.banded_matrix(size, beta, width), made)

    def g(n: int) -> float:
        return math.exp(-4 * n**2 / ((size - 1) ** 2 * beta))

    total = sum(g(n) for n in range(-size + 1, size))
    made = by_entry(size, lambda i, j: g(i - j) / total, 1.0)
    same(matrices.gaussian_matrix(size, beta), made)


@pytest.mark.parametrize("size", [2, 5, 6])
def test_rate_matrices_are_their_formulas(size: int) -> None:
    same(matrices.uniform_rates(size), by_entry(size, lambda i, j: 1 / size, 0.0))
    for width in (1, 2, size):
        made = by_entry(size, lambda i, j, w=width: (abs(i - j) <= w) / (2 * w), 0.0)
        same(matrices.banded_rates(size, width), made)
    for scale, centre in ((0.7, None), (2.0, 1.0)):
        middle = (size - 1) / 2 if centre is None else centre

        def law(i: int, middle: float = middle) -> float:
            return math.exp(-((i - middle) ** 2) / (2 * (size / 4) ** 2))

        def rate(i: int, j: int, scale: float = scale, law: Callable[[int], float] = law) -> float:
            return math.exp(-((i - j) ** 2) / scale**2) * min(1.0, law(j) / law(i))

        same(matrices.gaussian_rates(size, scale, centre), by_entry(size, rate, 0.0))


def test_nearest_neighbours_are_linked_both_ways() -> None:
    """Points on a line; the two nearest of each, without itself."""
    points = [0.0, 1.0, 2.5, 7.0, 7.25]
    near = [
        sorted((k for k in range(5) if k != i), key=lambda k, i=i: abs(points[k] - points[i]))[:2]
        for i in range(5)
    ]
    made = by_entry(5, lambda i, j: ((j in near[i]) + (i in near[j])) / 4, 0.0)
    same(matrices.nearest_neighbour_rates(torch.tensor(points).unsqueeze(1), 2), made)


def test_matrices_have_a_largest_size() -> None:
    matrices.check_square("rates", torch.zeros(1, 1).expand(4096, 4096))
    with pytest.raises(ValueError, match="4096"):
        matrices.transition(torch.zeros(1, 1).expand(4097, 4097), 1.0)
    with pytest.raises(ValueError, match="rates has shape"):
        matrices.transition(torch.zeros(2, 3), 1.0)
    with pytest.raises(ValueError, match="rates has shape"):
        matrices.transition(torch.zeros(2, 2, 2), 1.0)


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

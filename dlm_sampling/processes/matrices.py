"""Make the matrices that `RateMatrix` and `MatrixChain` take; vocabularies up to 4096.

Transition matrices have rows that are laws, Q[i, j] = P(next = j | now = i); rate matrices have
rows that sum to 0, Q[i, j] the rate of i -> j.  Austin et al. 2021, "Structured Denoising Diffusion
Models in Discrete State-Spaces", arXiv:2107.03006 (D3PM); rates in continuous time: Campbell et al.
2022, arXiv:2205.14987.

Public toolbox: nothing else in this library makes such a matrix; the caller passes one to a
process, and the process to a denoiser.
"""

from __future__ import annotations

import torch
from torch import Tensor

LARGEST_VOCABULARY = 4096


def check_square(name: str, matrix: Tensor) -> None:
    """Raise a ValueError unless `matrix` is [V, V] with V <= 4096."""
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"{name} has shape {tuple(matrix.shape)}: must be [V, V].")
    if len(matrix) > LARGEST_VOCABULARY:
        raise ValueError(
            f"{name} has {len(matrix)} symbols: dense matrices are for at most "
            f"{LARGEST_VOCABULARY}; use the absorbing or uniform process."
        )


def transition(rates: Tensor, integral: float) -> Tensor:
    """Return P(x_t = j | x_0 = i) = exp(Q int beta), [V, V]; `integral` is int beta."""
    check_square("rates", rates)
    exponential: Tensor = torch.matrix_exp(rates * integral)
    return exponential.clamp_min(0.0)


def _filled_diagonal(off: Tensor) -> Tensor:
    """Return a stochastic matrix from its entries off the diagonal."""
    off = off.clone().fill_diagonal_(0.0)
    return off + torch.diag(1.0 - off.sum(1))


def uniform_matrix(size: int, beta: float) -> Tensor:
    """Make (1 - beta) I + beta / V, float64 [V, V]."""
    return torch.eye(size, dtype=torch.float64) * (1.0 - beta) + beta / size


def absorbing_matrix(size: int, beta: float, mask: int) -> Tensor:
    """Make (1 - beta) I + beta 1 e_mask', float64 [V, V]; the row of the mask stays."""
    matrix = torch.eye(size, dtype=torch.float64) * (1.0 - beta)
    matrix[:, mask] += beta
    return matrix


def banded_matrix(size: int, beta: float, width: int) -> Tensor:
    """Make entries beta / V at distance 1 .. width, float64 [V, V]; D3PM, appendix A.2.5."""
    distance = _distance(size)
    return _filled_diagonal((distance <= width).double() * (beta / size))


def gaussian_matrix(size: int, beta: float) -> Tensor:
    """Make discretised Gaussian steps between ordered symbols, float64 [V, V].

        Q[i, j] = g(i - j) / sum_{|n| < V} g(n),   g(n) = exp(-4 n^2 / ((V - 1)^2 beta))

    off the diagonal; D3PM, appendix A.2.3.
    """
    scale = -4.0 / ((size - 1) ** 2 * beta)
    steps = torch.arange(-(size - 1), size, dtype=torch.float64)
    total = torch.exp(scale * steps**2).sum()
    return _filled_diagonal(torch.exp(scale * _distance(size).double() ** 2) / total)


def nearest_neighbour_rates(embeddings: Tensor, neighbours: int) -> Tensor:
    """Make rates between tokens whose embeddings are near, float64 [V, V]; D3PM, appendix A.2.4.

        A[i, j] = 1 where j is one of the k nearest of i, R = (A + A') / (2 k) - its row sums

    `transition(R, integral)` is doubly stochastic: the stationary law is uniform.
    """
    distance = torch.cdist(embeddings.double(), embeddings.double()).fill_diagonal_(float("inf"))
    nearest = distance.topk(neighbours, largest=False).indices
    adjacent = torch.zeros_like(distance).scatter_(1, nearest, 1.0)
    rates = (adjacent + adjacent.T) / (2 * neighbours)
    return rates - torch.diag(rates.sum(1))


def uniform_rates(size: int) -> Tensor:
    """Make uniform noise as a rate matrix, 1 / V off the diagonal, float64 [V, V]."""
    return torch.full((size, size), 1.0 / size, dtype=torch.float64) - torch.eye(size).double()


def banded_rates(size: int, width: int) -> Tensor:
    """Make rates 1 / (2 width) to each symbol at distance 1 .. width, float64 [V, V]."""
    distance = _distance(size)
    return _with_row_sums_zero(((distance <= width) & (distance > 0)).double() / (2 * width))


def gaussian_rates(size: int, scale: float, centre: float | None = None) -> Tensor:
    """Make rates between ordered symbols with a Gaussian stationary law, float64 [V, V].

        Q[i, j] = exp(-(i - j)^2 / scale^2) min{1, pi(j) / pi(i)}

    with pi Gaussian around `centre` (default: the middle) of standard deviation V / 4; reversible.
    In the manner of the image rates of Campbell et al. 2022, arXiv:2205.14987.
    """
    place = torch.arange(size, dtype=torch.float64)
    middle = (size - 1) / 2 if centre is None else centre
    log_law = -((place - middle) ** 2) / (2 * (size / 4) ** 2)
    near = torch.exp(-(_distance(size).double() ** 2) / scale**2)
    ratio = (log_law.unsqueeze(0) - log_law.unsqueeze(1)).clamp(max=0.0).exp()
    return _with_row_sums_zero(near * ratio)


def _with_row_sums_zero(rates: Tensor) -> Tensor:
    off = rates.clone().fill_diagonal_(0.0)
    return off - torch.diag(off.sum(1))


def _distance(size: int) -> Tensor:
    place = torch.arange(size)
    return (place.unsqueeze(0) - place.unsqueeze(1)).abs()

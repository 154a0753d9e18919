"""Choose among finished rows: best of n, soft best of n, minimum Bayes risk; estimate pass@k.

Nothing here runs a model: scores, utilities and correctness are the caller's.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dlm_sampling.errors import check_real, check_whole
from dlm_sampling.smc.resampling import normalised


def best_of(scores: Tensor) -> Tensor:
    """Return the row with the largest score of each group, int64 [G]; the lowest number of equals.

    The law of the choice is  P(best = x) = F(x)^n - F(x-)^n  for scores with distribution F, and
    its divergence from the model's law is at most log n - (n - 1) / n.

    Args:
        scores: [G, n].
    """
    return _scores("scores", scores).argmax(1)


def soft_best_of(scores: Tensor, temperature: float, uniform: Tensor) -> Tensor:
    """Draw a row of each group with probability ~ exp(score / temperature), int64 [G].

    Rows of a group whose scores are all -inf are equal.

    Args:
        scores: [G, n].
        temperature: >= 0; 0 is `best_of`.
        uniform: float64 [G], in (0, 1).

    Raises:
        ValueError: the temperature is negative or no number, or a score is +inf.
    """
    check_real("temperature", temperature)
    if not 0.0 <= temperature < math.inf:
        raise ValueError(
            f"temperature={temperature}: must be finite and >= 0; 0 takes the best row."
        )
    if temperature == 0.0:
        return best_of(scores)
    if bool((_scores("scores", scores) == math.inf).any()):
        raise ValueError("scores: +inf is above all others by no finite factor; use temperature=0.")
    edges = normalised(scores.double() / temperature).cumsum(1)
    found = torch.searchsorted(edges / edges[:, -1:], uniform.unsqueeze(1))[:, 0]
    return found.clamp(max=scores.shape[1] - 1)


def least_risk(utilities: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the row of each group with the largest mean utility, int64 [G]: minimum Bayes risk.

        argmax_i sum_j w_j u(y_i, y_j);  the lowest number of equals.

    Args:
        utilities: [G, n, n], entry (i, j) is u(y_i, y_j), how good y_i is if y_j is right.
        weights: [G, n] of the rows, or None for equal ones.

    Raises:
        ValueError: shapes do not fit.
    """
    if utilities.ndim != 3 or utilities.shape[1] != utilities.shape[2]:
        raise ValueError(f"utilities have shape {tuple(utilities.shape)}: must be [G, n, n].")
    if weights is not None and weights.shape != utilities.shape[:2]:
        shape = tuple(utilities.shape[:2])
        raise ValueError(f"weights have shape {tuple(weights.shape)}: must be {shape}.")
    shares = torch.ones_like(utilities[:, 0]) if weights is None else weights
    return (utilities.double() * shares.double().unsqueeze(1)).sum(2).argmax(1)


def pass_at(correct: Tensor, k: int) -> Tensor:
    """Return the unbiased estimate of the chance that one of k rows is right, float64 [G].

        1 - C(n - c, k) / C(n, k)    with c right rows among n

    Chen et al. 2021, arXiv:2107.03374.

    Args:
        correct: bool [G, n].
        k: rows that are tried, at most n.

    Raises:
        ValueError: k is not in [1, n].
    """
    check_whole("k", k)
    if correct.ndim != 2 or not 1 <= k <= correct.shape[1]:
        raise ValueError(
            f"k={k}: must be in [1, n], and correct has shape {tuple(correct.shape)}, [G, n]."
        )
    wrong, n = (~correct).sum(1).double(), correct.shape[1]
    missed = torch.ones_like(wrong)
    for i in range(k):
        missed = missed * (wrong - i).clamp(min=0.0) / (n - i)
    return 1.0 - missed


def _scores(name: str, values: Tensor) -> Tensor:
    """Return scores [G, n] after checking that they can be compared.

    Raises:
        ValueError: they have another shape, no column, or a NaN.
    """
    if values.ndim != 2 or not values.shape[1] or bool(values.isnan().any()):
        raise ValueError(
            f"{name} have shape {tuple(values.shape)}: must be [G, n] with n >= 1, without NaN."
        )
    return values

"""Compute exact laws of chains on enumerable states, and compare samples with a law.

With three symbols and two positions a masked chain has 16 states, so the law of any sampler whose
step factorises over positions is a product of matrices, and a sampler can be tested against its own
law rather than against the data law, which it only reaches with infinitely many steps.

S is the number of data symbols and V = S + 1 with the mask; states are enumerated in C order (the
last position runs fastest).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


def all_states(length: int, num_symbols: int) -> Tensor:
    """Return every sequence of symbols in C order, int64 [num_symbols ** length, length]."""
    grid = torch.arange(num_symbols**length)
    return torch.stack(torch.unravel_index(grid, (num_symbols,) * length), dim=1)


def joint_table(joint: Tensor | Sequence[Any]) -> Tensor:
    """Return a joint law as it was given, float64 [S] * L; refuse axes of different sizes."""
    table = torch.as_tensor(joint, dtype=torch.float64)
    if table.ndim == 0 or len(set(table.shape)) != 1:
        raise ValueError(
            f"joint has shape {tuple(table.shape)}: must be [S] * L, the same S on every axis."
        )
    return table


def count_states(tokens: Tensor, num_symbols: int) -> Tensor:
    """Count each state among the rows of `tokens` [R, L]; int64 [num_symbols ** L]."""
    place = num_symbols ** torch.arange(tokens.shape[1] - 1, -1, -1)
    return torch.bincount(
        (tokens.cpu() * place).sum(dim=1), minlength=num_symbols ** tokens.shape[1]
    )


def product_law(probs: Tensor) -> Tensor:
    """Return the law of sequences of independent positions, [N, L, K] -> [N, K ** L], C order."""
    law = probs[:, 0]
    for i in range(1, probs.shape[1]):
        law = (law.unsqueeze(2) * probs[:, i].unsqueeze(1)).flatten(1)
    return law


def exact_chain_law(
    step_probs: Callable[[Tensor, int], Tensor],
    steps: int,
    *,
    length: int,
    vocab_size: int,
    start: Tensor | None = None,
) -> Tensor:
    """Compute the law of the state after `steps` steps that draw all positions independently.

        law_{k+1}(y) = sum_x law_k(x) prod_i step_probs(x, k)[i, y_i]

    Args:
        step_probs: (states int64 [N, length], k) -> the law of the next state at each position,
            [N, length, vocab_size], rows summing to one; called with the states that can occur.
        steps: number of steps, k = 0 .. steps - 1.
        length: positions L.
        vocab_size: symbols V per position, the mask included if there is one.
        start: law of the first state, [V ** L]; default: every position holds the last symbol.

    Returns:
        float64 [V ** L], states in C order.

    Raises:
        ValueError: `step_probs` returns another shape, or rows that are no laws.
    """
    states = all_states(length, vocab_size)
    law = torch.zeros(len(states), dtype=torch.float64) if start is None else start.double()
    if start is None:
        law[-1] = 1.0
    for k in range(steps):
        reached = law > 0
        probs = step_probs(states[reached], k)
        _check_laws(probs, (int(reached.sum()), length, vocab_size), k)
        law = law[reached] @ product_law(probs.double())
    return law


def _check_laws(probs: Tensor, shape: tuple[int, int, int], k: int) -> None:
    if tuple(probs.shape) != shape:
        raise ValueError(
            f"step_probs returned shape {tuple(probs.shape)} at step {k}: must be {shape}."
        )
    if not bool((probs >= -1e-12).all()) or float((probs.sum(dim=-1) - 1).abs().max()) > 1e-6:
        raise ValueError(
            f"step_probs returned rows at step {k} that are negative or do not sum to one."
        )


def final_draw(
    law: Tensor,
    posterior: Callable[[Tensor], Tensor],
    *,
    length: int,
    vocab_size: int,
    greedy: bool = False,
) -> Tensor:
    """Compute the law of the sequence after each mask is drawn independently from its posterior.

    Args:
        law: law of the canvas, [V ** L], the mask being the last symbol, V - 1 = S.
        posterior: states int64 [N, L] -> probabilities [N, L, S] (more columns are ignored), such
            as `SupportDenoiser.probs`.
        length: positions L.
        vocab_size: V.
        greedy: take the most probable symbol (lowest id on ties) instead of drawing.

    Returns:
        float64 [S ** L], C order.
    """
    states, size = all_states(length, vocab_size)[law > 0], vocab_size - 1
    probs = posterior(states).double()[..., :size]
    if greedy:
        ids = torch.arange(size).expand_as(probs)
        best = torch.where(probs == probs.amax(dim=-1, keepdim=True), ids, size).amin(dim=-1)
        probs = F.one_hot(best, size).double()
    kept = F.one_hot(states, vocab_size).double()[..., :size]
    probs = torch.where((states == size).unsqueeze(-1), probs, kept)
    return law[law > 0].double() @ product_law(probs)


def tv(p: Tensor, q: Tensor) -> float:
    """Return the total variation distance, half the sum of |p - q|, in [0, 1] for laws."""
    return float((p.double() - q.double()).abs().sum() / 2)


class ChiSquare(NamedTuple):
    """Hold Pearson's statistic, its degrees of freedom, and the probability of a larger one."""

    stat: float
    dof: int
    p: float


def chi_square(counts: Tensor, probs: Tensor, *, min_expected: float = 5.0) -> ChiSquare:
    """Test counts against a law by Pearson's goodness of fit, with small cells pooled.

        stat = sum (count - expected)^2 / expected,   p = Q(dof / 2, stat / 2)

    Cells are pooled, smallest expectation first, until the pool expects at least `min_expected`.
    A count in a cell of probability zero gives p = 0.

    Args:
        counts: number of occurrences of each outcome, [K].
        probs: the law under test, [K]; normalised here.
        min_expected: smallest expected count of a cell.

    Raises:
        ValueError: shapes differ, nothing was counted, or a probability is negative.
    """
    if counts.shape != probs.shape or counts.ndim != 1:
        raise ValueError(
            f"counts {tuple(counts.shape)} and probs {tuple(probs.shape)}: must be one shape [K]."
        )
    if not bool(counts.sum() > 0) or not bool((probs >= 0).all()):
        raise ValueError("counts must not be all zero, and probs must be >= 0.")
    observed = counts.double()
    expected = probs.double() / probs.double().sum() * observed.sum()
    if bool((observed[expected == 0] > 0).any()):
        return ChiSquare(float("inf"), int((expected > 0).sum()), 0.0)
    observed, expected = _pool(observed[expected > 0], expected[expected > 0], min_expected)
    dof = len(expected) - 1
    stat = float(((observed - expected) ** 2 / expected).sum())
    if dof == 0:
        return ChiSquare(stat, 0, 1.0)
    half = torch.tensor([dof / 2, stat / 2], dtype=torch.float64)
    special: Any = torch.special
    return ChiSquare(stat, dof, float(special.gammaincc(half[0], half[1])))


def _pool(observed: Tensor, expected: Tensor, least: float) -> tuple[Tensor, Tensor]:
    """Merge the smallest cells into one, as few as make every cell expect at least `least`."""
    order = expected.argsort()
    observed, expected = observed[order], expected[order]
    if float(expected[0]) >= least:
        return observed, expected
    small = int((expected < least).sum())
    while small < len(expected) and float(expected[:small].sum()) < least:
        small += 1
    pooled = [
        torch.cat((x[:small].sum(dim=0, keepdim=True), x[small:])) for x in (observed, expected)
    ]
    return pooled[0], pooled[1]

"""Fill sudoku grids whose clues were seen with errors: the trained model is the prior.

    l(seen | grid)   product over the clues of  right, or (1 - right) / 3 for another digit
    proposal         laws of the model, tilted by the likelihood of each cell (`Classifier`)
    weights          `TwistedTarget`

The exact posterior is that of the 288 valid grids, of which the model has seen examples only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dlm_sampling import Denoiser, sample, samplers
from dlm_sampling.guidance import Classifier
from dlm_sampling.smc import TwistedTarget, sample_particles
from dlm_sampling.testing.sudoku import CELLS, MASK, SIDE, all_grids, is_valid
from dlm_sampling.types import TokenLaw

Record = dict[str, Any]
SAMPLER = samplers.create("llada-random")


class Puzzle(NamedTuple):
    """Hold the cells that were looked at, and the digits that were seen there, int64 [c] each."""

    cells: Tensor
    digits: Tensor


def puzzle(seed: int, clues: int, right: float) -> Puzzle:
    """Draw a grid, the cells that are looked at, and what is seen; wrong digits are uniform."""
    g = torch.Generator().manual_seed(seed)
    grids = all_grids()
    grid = grids[int(torch.randint(len(grids), (1,), generator=g))]
    cells = torch.randperm(CELLS, generator=g)[:clues]
    wrong = torch.rand(clues, generator=g) >= right
    shift = torch.randint(1, SIDE, (clues,), generator=g)
    return Puzzle(cells, torch.where(wrong, (grid[cells] + shift) % SIDE, grid[cells]))


def log_likelihood(seen: Puzzle, right: float) -> Callable[[Tensor], Tensor]:
    """Return log l of canvases int64 [n, 16], a cell to be filled counting as any digit."""

    def value(rows: Tensor) -> Tensor:
        held, other = rows[:, seen.cells], (1.0 - right) / (SIDE - 1)
        each = torch.where(held == seen.digits, right, other).double()
        return each.where(held != MASK, 1.0 / SIDE).log().sum(1)

    return value


def cells_of(grids: Tensor, weights: Tensor) -> Tensor:
    """Return the law of each cell, float64 [16, 4], of weighted grids [n, 16]."""
    shares = torch.nn.functional.one_hot(grids, SIDE).double() * weights[:, None, None]
    return shares.sum(0) / weights.sum()


def measure(
    denoiser: Denoiser, *, puzzles: int, clues: int, right: float, particles: int, counts: list[int]
) -> list[Record]:
    """Return a record of clues that are believed, and one for each number K of particles.

    Args:
        denoiser: of 4x4 sudoku.
        puzzles: puzzles, each drawn by its own seed.
        clues: cells that are looked at.
        right: chance to see the digit.
        particles: in all for each puzzle, in groups of K.
        counts: values of K.
    """
    totals = {name: torch.zeros(2).double() for name in [0, *counts]}
    for seed in range(puzzles):
        seen = puzzle(seed, clues, right)
        log_l, grids = log_likelihood(seen, right), all_grids()
        exact = cells_of(grids, log_l(grids).exp())
        for count in totals:
            rows, weights, drawn = _filled(denoiser, seen, log_l, particles, count)
            gap = (cells_of(rows, weights) - exact).abs().sum(1).mean() / 2.0
            totals[count] += torch.stack((is_valid(drawn).double().mean(), gap))
    return [
        {"count": count, "passes": float((CELLS - clues) if count == 0 else CELLS * count),
         "valid": float(valid) / puzzles, "distance": float(gap) / puzzles}
        for count, (valid, gap) in totals.items()
    ]  # fmt: skip


def _filled(
    denoiser: Denoiser, seen: Puzzle, log_l: Callable[[Tensor], Tensor], particles: int, count: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return grids with weights, and drawn grids; count 0 believes the clues."""
    tokens = torch.full((particles // max(1, count), CELLS), MASK)
    seeds = range(len(tokens))
    if count == 0:
        tokens[:, seen.cells] = seen.digits
        out = sample(
            denoiser, SAMPLER, tokens, tokens == MASK, seeds=seeds, law=TokenLaw()
        )  # fmt: skip
        return out.tokens, torch.ones(len(tokens)).double(), out.tokens
    found = sample_particles(
        denoiser, SAMPLER, tokens, tokens == MASK, TwistedTarget(log_l), particles=count,
        seeds=seeds, guidance=Classifier(log_l, SIDE + 1),
    )  # fmt: skip
    return found.tokens.flatten(0, 1), found.log_weights.exp().flatten(), found.draw()

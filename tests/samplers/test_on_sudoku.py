"""The exact sudoku oracle: one cell per forward pass, every unmask-only sampler writes valid grids.

With exact conditionals and one cell at a time the product of the conditionals is the law of the
grids, whatever the order; a sampler that breaks this is wrong.  An order that does not look at the
cells gives the uniform law over the 288 grids.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dlm_sampling import ops, samplers
from dlm_sampling.engine.sample import sample
from dlm_sampling.testing import chi_square
from dlm_sampling.testing.sudoku import SudokuOracle, all_grids, is_valid
from dlm_sampling.types import TokenLaw

CELLS = 16
UNMASK_ONLY = [
    name
    for name, entry in samplers.available().items()
    if "absorbing" in entry.runs_on and not entry.build().revises
]

# How to make a sampler write one cell per forward, where 16 steps alone do not.
ONE_CELL: dict[str, dict[str, Any]] = {
    "fast-dllm": {"threshold": 1.1},
    "fast-dllm-dream": {"threshold": 1.1},
    "fast-dllm-factor": {"factor": 0.0},
    "fast-dllm-v2": {"threshold": 1.1},
    "eb-sampler": {"gamma": 0.0},
    "klass": {"conf_threshold": 1.0},
    "klass-dream": {"conf_threshold": 1.1},
    "ccd": {"warm_up": 99},
    # Deeper, it draws from a mean with laws of earlier canvases, which is no conditional.
    "ccd-average": {"depth": 1},
    "dinfer-hierarchy": {"threshold": 1.1, "low_threshold": 1.1},
    "sdar": {"threshold": 1.0},
    "block-refinement": {"threshold": 1.0},
    "llada2": {"threshold": 1.0},
}
# Samplers with random or tied group sizes: blocks of one cell leave them no choice.
ONE_CELL_BLOCKS = {
    "ancestral",
    "dinfer-credit",
    "dinfer-threshold",
    "dream-origin",
    "euler",
    "flow-matching",
    "fs-dfm",
    "lsd",
    "maskgit",
    "picard",
    "reddit",
    "tau-leaping",
    "theta-rk2",
    "theta-trapezoidal",
    "tweedie",
}


def grids(name: str, rows: int, seed: int = 5) -> torch.Tensor:
    tokens = torch.zeros(rows, CELLS, dtype=torch.int64)
    out = sample(
        SudokuOracle(),
        samplers.create(name, **ONE_CELL.get(name, {})),
        tokens,
        torch.ones_like(tokens).bool(),
        seeds=ops.row_seeds(seed, rows),
        steps=CELLS,
        block_length=1 if name in ONE_CELL_BLOCKS else None,
        law=TokenLaw(),
    )
    return out.tokens


@pytest.mark.parametrize("name", UNMASK_ONLY)
def test_every_grid_is_valid(name: str) -> None:
    assert bool(is_valid(grids(name, 60)).all())


def test_several_cells_at_a_time_break_grids() -> None:
    """Negative control: four forwards of four cells."""
    tokens = torch.zeros(200, CELLS, dtype=torch.int64)
    out = sample(
        SudokuOracle(),
        samplers.create("llada-random"),
        tokens,
        torch.ones_like(tokens).bool(),
        seeds=ops.row_seeds(1, 200),
        steps=4,
        law=TokenLaw(),
    )
    assert not bool(is_valid(out.tokens).all())


@pytest.mark.parametrize("name", ["llada-random", "first-hitting", "p2-ancestral", "bd3lm"])
def test_random_order_is_uniform_over_the_288_grids(name: str) -> None:
    table = all_grids()
    place = 4 ** torch.arange(CELLS)
    law = {int(code): i for i, code in enumerate((table * place).sum(1))}
    drawn = (grids(name, 2880, seed=11) * place).sum(1).tolist()
    counts = torch.bincount(torch.tensor([law[code] for code in drawn]), minlength=len(table))
    result = chi_square(counts, torch.full((len(table),), 1 / len(table)).double())
    assert result.p > 1e-4, result

"""Define 4x4 sudoku, a world so small that the exact denoiser is a table of its 288 grids.

A grid is 16 tokens, row by row: ids 0 to 3 for the digits 1 to 4, and 4 for a cell to be filled.
With one cell per step every sampler that only unmasks gives valid grids from the oracle, and random
order gives all 288 with equal probability.
"""

from __future__ import annotations

import itertools
from functools import cache

import torch
from torch import Tensor

from dlm_sampling.testing import SupportDenoiser

SIDE = 4
CELLS = SIDE * SIDE
MASK = SIDE
"""Id of a cell to be filled."""


def _units() -> Tensor:
    """Return the cells of the 4 rows, 4 columns and 4 boxes, int64 [12, 4]."""
    cells = torch.arange(CELLS).view(SIDE, SIDE)
    boxes = cells.view(2, 2, 2, 2).transpose(1, 2).reshape(SIDE, SIDE)
    return torch.cat((cells, cells.T, boxes))


def is_valid(grids: Tensor) -> Tensor:
    """Return whether every row, column and 2x2 box has each digit once; int [..., 16] to bool."""
    seen = (
        grids[..., _units().to(grids.device)].unsqueeze(-1)
        == torch.arange(SIDE, device=grids.device)
    ).any(dim=-2)
    return seen.all(dim=-1).all(dim=-1)


@cache
def all_grids() -> Tensor:
    """Return the 288 valid grids, int64 [288, 16], in lexicographic order."""
    rows = torch.tensor(list(itertools.permutations(range(SIDE))))
    grids = torch.empty(1, 0, dtype=torch.int64)
    for _ in range(SIDE):
        grids = torch.cat(
            (grids.repeat_interleave(len(rows), dim=0), rows.repeat(len(grids), 1)), dim=1
        )
        columns = grids.view(len(grids), -1, SIDE)
        clash = (columns[:, :-1] == columns[:, -1:]).flatten(1).any(dim=1)
        grids = grids[~clash]
    return grids[is_valid(grids)]


class SudokuOracle(SupportDenoiser):
    """Compute the exact posterior of a uniformly drawn 4x4 sudoku given the filled cells.

        P(cell i = v | filled cells) = grids that agree and have v at cell i / grids that agree

    Canvases of 16 tokens, vocabulary of 5 (four digits and the mask, id 4); logits float64, -inf
    where no grid is left.  Filled cells that no grid has are handled as in `SupportDenoiser`.
    """

    def __init__(
        self, *, dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu"
    ) -> None:
        """See the class."""
        super().__init__(all_grids(), vocab_size=SIDE + 1, dtype=dtype, device=device)


def parse(text: str) -> Tensor:
    """Read a grid such as "1..4/..3." into ids, int64 [16].

    Digits 1 to 4; '.', '_' or '0' for a cell to be filled; '/' or a new line ends a row, and what a
    row or the grid lacks is to be filled.  Blanks are ignored.  Without any row end the 16 cells
    follow each other.

    Raises:
        ValueError: another character, a row of more than 4 cells, or more than 4 rows.
    """
    rows = ["".join(row.split()) for row in text.strip().replace("\n", "/").split("/")]
    if len(rows) == 1:
        rows = [rows[0][i : i + SIDE] for i in range(0, len(rows[0]), SIDE)]
    if len(rows) > SIDE or any(len(row) > SIDE for row in rows):
        raise ValueError(
            f"{text!r}: must be at most 4 rows of at most 4 cells, such as '1.../..3./.2../...4'."
        )
    cells = "".join(row.ljust(SIDE, ".") for row in rows).ljust(CELLS, ".")
    wrong = sorted(set(cells) - set("1234._0"))
    if wrong:
        raise ValueError(f"{text!r} contains {wrong[0]!r}: cells are 1 to 4, or '.' to be filled.")
    return torch.tensor([int(cell) - 1 if cell in "1234" else MASK for cell in cells])


def render(grid: Tensor) -> str:
    """Write one grid [16] as four lines of digits, '.' for a cell to be filled.

    Raises:
        ValueError: not 16 ids in [0, 4].
    """
    ids = [int(i) for i in grid.flatten()]
    if len(ids) != CELLS or not set(ids) <= set(range(SIDE + 1)):
        raise ValueError(f"grid: must be 16 ids from 0 to 4, got {ids}.")
    text = "".join("1234."[i] for i in ids)
    return "\n".join(text[i : i + SIDE] for i in range(0, CELLS, SIDE))

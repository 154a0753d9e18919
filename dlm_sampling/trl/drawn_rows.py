"""Hand rows of a rollout through a trainer that shuffles and splits its batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dlm_sampling.likelihood.rollout import Rollout


@dataclass(frozen=True)
class DrawnRow:
    """Name one row of a rollout; a batch holds one per text, and is ordered like its texts.

    Fields:
        rollout: all rows that were drawn together.
        row: number of the row.
        begin: first column of the text.
    """

    rollout: Rollout
    row: int
    begin: int


@dataclass(frozen=True)
class DrawnBatch:
    """Hold the rows of a batch in the order of its texts.

    Fields:
        rollout: the rows.
        begin: int64 [B], first column of each text.
    """

    rollout: Rollout
    begin: Tensor

    @classmethod
    def of(cls, rows: Sequence[DrawnRow]) -> DrawnBatch:
        """Collect rows that were drawn together.

        Raises:
            ValueError: they were not.
        """
        source = rows[0].rollout
        if any(row.rollout is not source for row in rows):
            raise ValueError(
                "a batch of the trainer has texts of two generations: leave "
                "_generate_and_score_completions and _prepare_inputs of the trainer as they are."
            )
        rollout = source.select(torch.tensor([row.row for row in rows]))
        begin = torch.tensor([row.begin for row in rows], device=rollout.tokens.device)
        return cls(rollout, begin)

    def behind(self, values: Tensor, width: int) -> Tensor:
        """Return `width` columns of values [B, L] from the begin of each text, 0 where none are."""
        column = self.begin.unsqueeze(1) + torch.arange(width, device=self.begin.device)
        inside = column < values.shape[1]
        found = values.gather(1, column.clamp(max=values.shape[1] - 1).to(values.device))
        return torch.where(inside.to(values.device), found, 0.0)

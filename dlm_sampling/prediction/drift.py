"""Measure how far values moved between two passes of a cache."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dlm_sampling.prediction.run_cache import RunCache


@dataclass(frozen=True)
class Values:
    """Hold stored values of the last layer at the columns of a pass.

    Fields:
        values: [n, q, heads x width], 0 before the first pass.
        held: bool [n, q], columns that are stored.
        query: int64 [n, q], the columns; L fills rows that have fewer.
    """

    values: Tensor | None
    held: Tensor
    query: Tensor

    @classmethod
    def at(cls, cache: RunCache, rows: Tensor, query: Tensor) -> Values:
        """Copy the values of rows of the run, int64 [n], at columns, int64 [n, q]."""
        held = torch.nn.functional.pad(cache.held[rows], (0, 1)).gather(1, query)
        if not cache.layers:
            return cls(None, held, query)
        stored = cache.layers[0][-1].values
        found = stored[rows.unsqueeze(1), :, query]  # [n, q, heads, width]
        return cls(found.flatten(2), held, query)

    def moved(self, after: Values, masks: Tensor) -> Tensor:
        """Return the mean of 1 - cos(before, after) over stored masks (bool [n, L]), float64 [n].

        0 in rows without any.
        """
        counted = self.held & torch.nn.functional.pad(masks, (0, 1)).gather(1, self.query)
        if self.values is None or after.values is None:
            return torch.zeros(len(self.query), dtype=torch.float64, device=self.query.device)
        apart = 1.0 - torch.cosine_similarity(self.values.double(), after.values.double(), 2)
        total = apart.masked_fill(~counted, 0.0).sum(1)
        return total.clamp_min(0.0) / counted.sum(1).clamp_min(1)

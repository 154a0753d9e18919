"""Spread the record of a draw at R positions over the canvas, one table at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from dlm_sampling.prediction.positions import Sites
from dlm_sampling.types import Draw, DrawRecord


class SpreadDraw:
    """Show a draw at R positions as tables [A, L], each made when it is first read.

    Entries at other positions are 0.
    """

    def __init__(self, record: DrawRecord, sites: Sites) -> None:
        self._record, self._sites = record, sites
        self._tables: dict[int, Tensor] = {}

    def _spread(self, field: int) -> Tensor:
        """Make the table of one field of the record, given by its index."""
        table = self._tables[field] = self._sites.spread(self._record[field])
        return table

    @property
    def token(self) -> Tensor:
        """Return the drawn tokens, int64 [A, L]."""
        return self._tables[0] if 0 in self._tables else self._spread(0)

    @property
    def logprob(self) -> Tensor:
        """Return the log-probability of each token under the sampled law, [A, L]."""
        return self._tables[1] if 1 in self._tables else self._spread(1)

    @property
    def log_confidence(self) -> Tensor:
        """Return the log-probability of each token under the law of the statistics, [A, L]."""
        return self._tables[2] if 2 in self._tables else self._spread(2)

    @property
    def max_logprob(self) -> Tensor:
        """Return the largest log-probability, [A, L]."""
        return self._tables[3] if 3 in self._tables else self._spread(3)

    @property
    def margin(self) -> Tensor:
        """Return the largest minus the second-largest probability, [A, L]."""
        return self._tables[4] if 4 in self._tables else self._spread(4)

    @property
    def entropy(self) -> Tensor:
        """Return the entropy in nats, [A, L]."""
        return self._tables[5] if 5 in self._tables else self._spread(5)

    @property
    def log_normalizer(self) -> Tensor:
        """Return the logsumexp of the logits that the statistics are taken over, [A, L]."""
        return self._tables[6] if 6 in self._tables else self._spread(6)


def empty_draw(sites: Sites) -> Draw:
    """Return the draw at no position: zeros, [A, L]."""
    zeros = torch.zeros(sites.shape, dtype=torch.float32, device=sites.row.device)
    return DrawRecord(torch.zeros_like(zeros, dtype=torch.int64), *([zeros] * 6))

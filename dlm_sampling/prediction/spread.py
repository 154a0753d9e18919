"""Spread the record of a draw at R positions over the canvas, one table at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from dlm_sampling.ops.lazy_draw import LazyDraw
from dlm_sampling.prediction.positions import Sites
from dlm_sampling.types import Draw, DrawRecord


class SpreadDraw:
    """Show a draw at R positions as tables [A, L], each made when it is first read.

    Entries at other positions are 0.
    """

    def __init__(self, record: Draw, sites: Sites) -> None:
        self._record, self._sites = record, sites
        self._tables: dict[str, Tensor] = {}

    @property
    def token(self) -> Tensor:
        """Return the drawn tokens, int64 [A, L]."""
        if "token" not in self._tables:
            self._tables["token"] = self._sites.spread(self._record.token)
        return self._tables["token"]

    @property
    def logprob(self) -> Tensor:
        """Return the log-probability of each token under the sampled law, [A, L]."""
        if "logprob" not in self._tables:
            self._tables["logprob"] = self._logprob()
        return self._tables["logprob"]

    def _logprob(self) -> Tensor:
        """Return the table `logprob`, which needs no positions where it is 0 everywhere."""
        record, sites = self._record, self._sites
        if isinstance(record, LazyDraw) and record.certain:
            return torch.zeros_like(self.token, dtype=record.dtype)
        return sites.spread(record.logprob)

    @property
    def log_confidence(self) -> Tensor:
        """Return the log-probability of each token under the law of the statistics, [A, L]."""
        if "log_confidence" not in self._tables:
            self._tables["log_confidence"] = self._sites.spread(self._record.log_confidence)
        return self._tables["log_confidence"]

    @property
    def max_logprob(self) -> Tensor:
        """Return the largest log-probability, [A, L]."""
        if "max_logprob" not in self._tables:
            self._tables["max_logprob"] = self._sites.spread(self._record.max_logprob)
        return self._tables["max_logprob"]

    @property
    def margin(self) -> Tensor:
        """Return the largest minus the second-largest probability, [A, L]."""
        if "margin" not in self._tables:
            self._tables["margin"] = self._sites.spread(self._record.margin)
        return self._tables["margin"]

    @property
    def entropy(self) -> Tensor:
        """Return the entropy in nats, [A, L]."""
        if "entropy" not in self._tables:
            self._tables["entropy"] = self._sites.spread(self._record.entropy)
        return self._tables["entropy"]

    @property
    def log_normalizer(self) -> Tensor:
        """Return the logsumexp of the logits that the statistics are taken over, [A, L]."""
        if "log_normalizer" not in self._tables:
            self._tables["log_normalizer"] = self._sites.spread(self._record.log_normalizer)
        return self._tables["log_normalizer"]


def empty_draw(sites: Sites) -> Draw:
    """Return the draw at no position: zeros, [A, L]."""
    return DrawRecord(sites.zeros(torch.int64), *([sites.zeros(torch.float32)] * 6))

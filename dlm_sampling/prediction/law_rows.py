"""Make the law of a rule over tables, at the positions asked for, a few rows at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dlm_sampling import ops
from dlm_sampling.prediction.model import RunModel
from dlm_sampling.prediction.positions import Sites
from dlm_sampling.processes.tables import clean_table
from dlm_sampling.types import PredictionKind, Site, TokenLaw

Rule = Callable[[Site], Tensor]

PLAIN = TokenLaw()
"""The law of a draw from given laws, as they are."""


@dataclass(frozen=True)
class SiteLaws:
    """Make laws of rules of predictions, at R positions.

    Fields:
        model: the denoiser and the token law.
        sites: the positions.
        x: int64 [A, L], the canvases.
        alpha: float64 [A], their levels.
        reads: kind of table that the rules take.
        adjust: changes the logits first, or None.
    """

    model: RunModel
    sites: Sites
    x: Tensor
    alpha: Tensor
    reads: PredictionKind
    adjust: ops.Adjust | None

    def rows(self, logits: ops.LogitRows, rule: Rule) -> ops.LogitRows:
        """Return the rule's law of logits of the positions, on demand, float64 [R, V]."""

        def fetch(i: Tensor) -> Tensor:
            p = self._table(logits, i, self.model.law, self.reads)
            return rule(self._site(i, p))

        return replace(logits, fetch=fetch, dtype=torch.float64)

    @property
    def clean_kind(self) -> PredictionKind:
        """Return the kind of law of the clean token that filters act on."""
        kind = self.model.denoiser.kind
        return "leave_one_out" if kind == "log_score" else kind

    def clean(self, logits: ops.LogitRows, i: Tensor) -> Tensor:
        """Return log-laws of the clean token without temperature and filters, [r, V]."""
        return self._table(logits, i, self.model.own_law, self.clean_kind).log()

    def of_clean(self, log_p: Tensor, i: Tensor, rule: Rule) -> Tensor:
        """Return the rule's laws of log-laws [r, V] of the clean token, as they are."""
        model, row = self.model, self.sites.row[i]
        x, alpha = self.sites.read(self.x)[i], self.alpha[row]
        p = model.denoiser.process.convert(log_p.exp(), x, alpha, self.clean_kind, self.reads)
        return rule(self._site(i, p))

    def _table(
        self, logits: ops.LogitRows, i: Tensor, law: TokenLaw, target: PredictionKind
    ) -> Tensor:
        found, denoiser = logits.fetch(i), self.model.denoiser
        return clean_table(
            found if self.adjust is None else self.adjust(found, i), self.sites.read(self.x)[i],
            self.alpha[self.sites.row[i]], law=law, process=denoiser.process,
            source=denoiser.kind, target=target,
        )  # fmt: skip

    def _site(self, i: Tensor, p: Tensor) -> Site:
        sites = self.sites
        return Site(sites.read(self.x)[i], sites.row[i], p, sites.column[i])


def log_probs_in(rows: ops.LogitRows, ids: Tensor) -> Tensor:
    """Return the log-probability of an id in each row's law, [R], with a graph in grad mode.

    Args:
        rows: laws of R positions, not normalised; a block of them exists at a time.
        ids: int64 [R].
    """

    def chosen(here: Tensor) -> Tensor:
        law = rows.fetch(here)
        return (law.gather(1, ids[here].unsqueeze(1)).squeeze(1) / law.sum(1)).log()

    every = torch.arange(rows.count, device=ids.device)
    return torch.cat([ops.remade(chosen, here) for here in torch.split(every, rows.block)])

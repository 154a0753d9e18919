"""Make the law of a rule over tables, at the positions asked for, a few rows at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

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


def law_rows(
    logits: ops.LogitRows,
    model: RunModel,
    sites: Sites,
    x: Tensor,
    alpha: Tensor,
    reads: PredictionKind,
    rule: Rule,
    adjust: ops.Adjust | None,
) -> ops.LogitRows:
    """Return the rule's law at the positions, on demand, float64 [R, V].

    Args:
        logits: of the positions, in their order.
        model: the denoiser and the token law.
        sites: the positions.
        x: int64 [A, L], the canvases.
        alpha: float64 [A], their levels.
        reads: the kind of table that the rule takes.
        rule: makes laws of the next token.
        adjust: changes the logits first, or None.
    """
    row, column, here = sites.row, sites.column, sites.read(x)

    def fetch(i: Tensor) -> Tensor:
        found = logits.fetch(i)
        p = clean_table(
            found if adjust is None else adjust(found, i), here[i], alpha[row[i]], law=model.law,
            process=model.denoiser.process, source=model.denoiser.kind, target=reads,
        )  # fmt: skip
        return rule(Site(here[i], row[i], p, column[i]))

    return replace(logits, fetch=fetch, dtype=torch.float64)


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

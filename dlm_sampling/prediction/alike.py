"""Run rows that show the network the same thing once: the first pass of several texts of a prompt.

On masks all rows of a prompt begin with the same canvas, so one row's pass gives the logits of all.
Without a mask they begin with noise of their own, and nothing is shared.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.prediction.rows import PassRows
from dlm_sampling.prediction.shapes import real_columns
from dlm_sampling.types import DenoiserOutput, Pass
from dlm_sampling.types.rows import select_rows
from dlm_sampling.types.values import distinct


@dataclass(frozen=True)
class Alike:
    """Hold which rows of a pass show the network the same thing.

    Fields:
        first: int64 [k], the first row of each kind.
        kind: int64 [n], the kind of each row.
    """

    first: Tensor
    kind: Tensor

    def one_of_each(self, inputs: Pass, horizon: Tensor | None) -> tuple[Pass, Tensor | None]:
        """Return the input of k rows in place of n."""
        return select_rows((inputs, horizon), self.first)

    def spread(self, output: DenoiserOutput) -> DenoiserOutput:
        """Return the output of k rows as that of n."""
        columns = None if output.columns is None else output.columns[self.kind]
        return output._replace(values=output.values[self.kind], columns=columns)

    def spared(self, hidden: Tensor | None, passes: int) -> Tensor:
        """Return the canvases that the first row of its kind shows in the place of each, [n].

        Args:
            hidden: float64 [n], canvases that each row leaves out of its passes, or None.
            passes: of each row.
        """
        copies = torch.ones_like(self.kind, dtype=torch.float64).index_fill(0, self.first, 0.0)
        return copies * passes if hidden is None else copies * (passes - hidden)


def alike(inputs: Pass, rows: PassRows, denoiser: Denoiser) -> Alike | None:
    """Return which rows of a pass are the same, None if no two are; synchronises.

    None also for a network that tells rows apart by their numbers, or by a state that it carries.

    Args:
        inputs: the pass.
        rows: its rows, for what they hide.
        denoiser: the network.
    """
    if not denoiser.rows_alike or denoiser.carries:
        return None
    parts = [inputs.tokens]
    for part in (inputs.attention, rows.given, rows.horizon, inputs.columns):
        parts += [] if part is None else [part.long().view(len(part), -1)]
    for time in (inputs.t, inputs.dt) if denoiser.time_conditioned else ():
        parts += [] if time is None else [time.double().view(torch.int64).unsqueeze(1)]
    kinds, kind = distinct(torch.cat(parts, 1))
    if len(kinds) == len(kind):
        return None
    order = torch.arange(len(kind), device=kind.device)
    first = torch.zeros_like(kind[: len(kinds)]).scatter_reduce(
        0, kind, order, "amin", include_self=False
    )
    return Alike(first, kind)


def count_shared(shared: Tensor, inputs: Pass, columns: Tensor, first: Tensor) -> None:
    """Count the columns of a pass that the first row of each kind shows in the place of others.

    Args:
        shared: float64 [B], counts of the batch rows, changed in place.
        inputs: the pass of n rows.
        columns: int64 [n], columns that each row asks for.
        first: int64 [u], the rows that are run.
    """
    assert inputs.rows is not None
    share = columns.double() / real_columns(inputs).sum(1).clamp_min(1)
    shared.index_add_(0, inputs.rows, share.index_fill(0, first, 0.0))


def same_queries(inputs: Pass, query: Tensor) -> tuple[Tensor, Tensor] | None:
    """Find canvases that are the same, so that one pass serves them all.

    Returns the index of the first canvas of each kind, int64 [u], and the kind of each canvas,
    int64 [n]; None if all differ.
    """
    parts = [inputs.tokens, query]
    if inputs.attention is not None:
        parts.append(inputs.attention.long())
    if inputs.t is not None:
        parts.append(inputs.t.view(torch.int64).unsqueeze(1))
    table = torch.cat(parts, 1)
    found, kind = distinct(table)
    if len(found) == len(kind):
        return None
    order = torch.arange(len(kind), device=kind.device)
    first = order.new_full((len(found),), len(kind)).scatter_reduce(0, kind, order, "amin")
    return first, kind

"""Lay out the positions and passes of a prediction, in shapes that are free or fixed.

A recorded step (CUDA graph) needs tensors of fixed shape; any other step computes only the
positions and rows that are requested.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.prediction.carry import crop, widen
from dlm_sampling.prediction.logits import gathered
from dlm_sampling.prediction.model import Counts
from dlm_sampling.prediction.network import prove_on_pass, runner
from dlm_sampling.prediction.positions import Sites
from dlm_sampling.types import DenoiserOutput, Draw, Pass
from dlm_sampling.types.rows import select_rows, store_rows
from dlm_sampling.types.values import distinct, every, int_rows, some


class Shapes(Protocol):
    """Define how a predictor lays out positions and passes."""

    def sites(self, where: Tensor) -> Sites:
        """Return the positions at which `where` (bool [A, L]) is True."""
        ...

    def missing(self, where: Tensor, done: Tensor | None) -> Tensor | None:
        """Return the rows with a position in `where` and no pass yet, int64 [n]; None: all rows."""
        ...

    def charge(self, counts: Counts, rows: Tensor, passes: int, hidden: Tensor | None) -> None:
        """Count passes of `rows` (int64 [n]) that left out `hidden` (float64 [n]) canvases."""
        ...

    def cut(self, inputs: Pass, horizon: Tensor) -> Pass:
        """Hide the columns at and right of `horizon` (int64 [n]) from the network."""
        ...

    def note(self, draw: Draw, sites: Sites) -> None:
        """Record the rows whose logits define no law, of a draw at `sites`."""
        ...

    def prove_padding(self, denoiser: Denoiser, inputs: Pass) -> None:
        """Prove that a network honours padding, where that takes further passes."""
        ...

    def check_free(self, reason: str) -> None:
        """Check that shapes may change from step to step; `reason` says why they must.

        Raises:
            ValueError: the shapes are fixed.
        """
        ...


class FreeShapes:
    """Compute only the positions and rows that are requested."""

    def sites(self, where: Tensor) -> Sites:
        """Return the positions at which `where` (bool [A, L]) is True; synchronises."""
        return Sites.of(where)

    def missing(self, where: Tensor, done: Tensor | None) -> Tensor | None:
        """Return the rows with a position in `where` and no pass yet, int64 [n]; None: all rows."""
        if done is None and where.shape[0] == 1 and some(where):  # no reduction for a row alone
            return None
        needed = where.any(1) if done is None else where.any(1) & ~done
        return None if every(needed) else needed.nonzero().squeeze(1)

    def charge(self, counts: Counts, rows: Tensor, passes: int, hidden: Tensor | None) -> None:
        """Count passes of every row in `rows`."""
        counts.nfe.index_add_(0, rows, torch.ones_like(rows), alpha=passes)
        if hidden is not None:
            counts.spared.index_add_(0, rows, hidden)

    def cut(self, inputs: Pass, horizon: Tensor) -> Pass:
        """Cut the columns hidden from all rows, and mask the columns hidden from some."""
        width = int(horizon.max())
        tokens, attention = inputs.tokens[:, :width], inputs.attention
        visible = torch.arange(width, device=horizon.device) < horizon.unsqueeze(1)
        if attention is not None:
            visible = visible & attention[:, :width]
        seen = None if every(visible) else visible
        columns = inputs.columns
        if columns is not None:
            # The window of a short block reaches beyond it, where nothing is asked for.
            columns = columns.clamp(max=width - 1)
        return inputs._replace(tokens=tokens, attention=seen, columns=columns)

    def note(self, draw: Draw, sites: Sites) -> None:
        """Do nothing: the draw has already raised an error for such rows."""

    def prove_padding(self, denoiser: Denoiser, inputs: Pass) -> None:
        """Compare a padded row with the row alone, once per denoiser."""
        prove_on_pass(denoiser, inputs)

    def check_free(self, reason: str) -> None:
        """Do nothing: free shapes may change."""


FREE = FreeShapes()


@dataclass(frozen=True)
class FixedShapes:
    """Compute all held rows and all columns of a window; draws skip the unrequested positions.

    Fields:
        columns: int64 [B, W], the columns where draws may be requested.
        live: bool [B], rows whose passes count.
        lawless: bool [B], set in place where the logits of a live row defined no law.
    """

    columns: Tensor
    live: Tensor
    lawless: Tensor

    def sites(self, where: Tensor) -> Sites:
        """List the whole window, requested where `where` is True in a live row."""
        return Sites.within(where & self.live.unsqueeze(1), self.columns)

    def missing(self, where: Tensor, done: Tensor | None) -> None:
        """Return None, which stands for all rows."""
        return

    def charge(self, counts: Counts, rows: Tensor, passes: int, hidden: Tensor | None) -> None:
        """Count passes of live rows; a recorded step runs all the rows that it holds."""
        counts.nfe.index_add_(0, rows, self.live.long(), alpha=passes)
        if hidden is not None:
            counts.spared.index_add_(0, rows, hidden * self.live)

    def cut(self, inputs: Pass, horizon: Tensor) -> Pass:
        """Mask the hidden columns, and keep the width."""
        visible = torch.arange(inputs.tokens.shape[1], device=horizon.device) < horizon.unsqueeze(1)
        if inputs.attention is not None:
            visible = visible & inputs.attention
        return inputs._replace(attention=visible)

    def note(self, draw: Draw, sites: Sites) -> None:
        """Set `lawless` in live rows whose normaliser is not finite at a requested position."""
        lawless = ~draw.log_normalizer.isfinite()
        if sites.asked is not None:
            lawless = lawless & sites.asked
        lawless = lawless.view(len(self.live), -1).any(1)
        self.lawless.logical_or_(lawless & self.live)

    def prove_padding(self, denoiser: Denoiser, inputs: Pass) -> None:
        """Do nothing: the engine does it before it records a step."""

    def check_free(self, reason: str) -> None:
        """Raise the error of a sampler that needs changing shapes.

        Raises:
            ValueError: always.
        """
        raise ValueError(f"cuda_graph=True: this sampler {reason}.")


def real_columns(inputs: Pass) -> Tensor:
    """Return a mask that is False at padding, bool [n, L]."""
    if inputs.attention is None:
        return torch.ones_like(inputs.tokens, dtype=torch.bool)
    return inputs.attention


def unseen_share(inputs: Pass, horizon: Tensor, passes: int) -> Tensor:
    """Return the columns hidden by a horizon (int64 [n]), in whole canvases, float64 [n]."""
    real = real_columns(inputs)
    columns = torch.arange(real.shape[1], device=real.device)
    unseen = (real & (columns >= horizon.unsqueeze(1))).sum(1)
    return unseen.double() * passes / real.sum(1).clamp_min(1)


def by_span(denoiser: Denoiser, inputs: Pass, length: int) -> DenoiserOutput:
    """Run a model that takes no attention mask once per span of real tokens.

    Rows with the same span run together, cut to the span.  Returns the values of the requested
    columns, or of all columns if none were requested.
    """
    real = real_columns(inputs)
    first = real.long().argmax(1)
    spans = torch.stack([first, first + real.sum(1)], 1)
    carry, head, values = inputs.carry, None, None
    run, along = runner(denoiser), denoiser.carry_has_columns
    all_columns = torch.arange(real.shape[1], device=real.device).expand_as(real)
    columns = all_columns if inputs.columns is None else inputs.columns
    for start, stop in int_rows(distinct(spans)[0]):
        group = ((spans[:, 0] == start) & (spans[:, 1] == stop)).nonzero().squeeze(1)
        asked = columns[group]
        inside = (asked >= start) & (asked < stop)
        state = None if carry is None else select_rows(carry, group)
        state = crop(state, start, stop) if along else state
        part = select_rows(inputs._replace(carry=None, columns=None, attention=None), group)
        out = run(
            part._replace(
                tokens=part.tokens[:, start:stop],
                carry=state,
                columns=(asked - start).clamp(0, stop - start - 1),
            ),
        )
        if values is None:
            values = out.values.new_zeros(*columns.shape, *out.values.shape[2:])
        found = gathered(out, (asked - start).clamp(0, stop - start - 1))
        values[group] = found.masked_fill(~inside.unsqueeze(-1), 0.0)
        if carry is not None:
            after = widen(out.carry, start, stop, length) if along else out.carry
            carry = store_rows(carry, group, after)
        head = out.head
    assert values is not None
    return DenoiserOutput(values, head, carry, inputs.columns)

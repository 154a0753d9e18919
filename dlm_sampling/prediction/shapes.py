"""Decides the shapes of a prediction: as many positions as are asked for, or always the same.

A recorded step (CUDA graph) needs tensors of fixed shape; any other step computes only what is
asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dlm_sampling.prediction.model import Counts
from dlm_sampling.prediction.positions import Sites
from dlm_sampling.types import Pass


class Shapes(Protocol):
    """How a predictor lays out positions and passes."""

    def sites(self, where: Tensor) -> Sites:
        """Lists the positions of `where` (bool [A, L])."""
        ...

    def missing(self, where: Tensor, done: Tensor) -> Tensor | None:
        """Gives the rows with a position in `where` and no pass yet, int64 [n]; None: all rows."""
        ...

    def charge(self, counts: Counts, rows: Tensor, passes: int, hidden: Tensor | None) -> None:
        """Counts passes of `rows` (int64 [n]) that left out `hidden` (float64 [n]) canvases."""
        ...

    def cut(self, inputs: Pass, horizon: Tensor) -> Pass:
        """Hides the columns at and right of `horizon` (int64 [n]) from the network."""
        ...

    def note(self, log_normalizer: Tensor, sites: Sites) -> None:
        """Takes note of rows whose logits define no law; log_normalizer [R] belongs to `sites`."""
        ...

    def check_free(self, reason: str) -> None:
        """Refuses what needs shapes that change from step to step.

        Raises:
            ValueError: the shapes are fixed.
        """
        ...


class FreeShapes:
    """Computes the positions and rows that are asked for, and no others."""

    def sites(self, where: Tensor) -> Sites:
        """Lists the positions that are asked for; waits for the device."""
        return Sites.of(where)

    def missing(self, where: Tensor, done: Tensor) -> Tensor | None:
        """Gives the rows that a pass is still to be made for."""
        needed = where.any(1) & ~done
        return None if bool(needed.all()) else needed.nonzero().squeeze(1)

    def charge(self, counts: Counts, rows: Tensor, passes: int, hidden: Tensor | None) -> None:
        """Charges every row that takes part."""
        counts.nfe.index_add_(0, rows, torch.full_like(rows, passes))
        if hidden is not None:
            counts.spared.index_add_(0, rows, hidden)

    def cut(self, inputs: Pass, horizon: Tensor) -> Pass:
        """Leaves out the columns that no row of the pass sees, and masks the rest."""
        width = int(horizon.max())
        tokens, attention = inputs.tokens[:, :width], inputs.attention
        visible = torch.arange(width, device=horizon.device) < horizon.unsqueeze(1)
        if attention is not None:
            visible = visible & attention[:, :width]
        return inputs._replace(tokens=tokens, attention=None if bool(visible.all()) else visible)

    def note(self, log_normalizer: Tensor, sites: Sites) -> None:
        """Does nothing: the draw itself has refused such rows."""

    def check_free(self, reason: str) -> None:
        """Accepts everything."""


FREE = FreeShapes()


@dataclass(frozen=True)
class FixedShapes:
    """Computes all rows and all columns of a window; what is not asked for is passed over.

    Fields:
        columns: int64 [B, W], the columns where draws may be asked for.
        live: bool [B], rows whose passes count.
        lawless: bool [B], set in place where the logits of a live row defined no law.
    """

    columns: Tensor
    live: Tensor
    lawless: Tensor

    def sites(self, where: Tensor) -> Sites:
        """Lists the whole window, asked for where `where` is True in a live row."""
        return Sites.within(where & self.live.unsqueeze(1), self.columns)

    def missing(self, where: Tensor, done: Tensor) -> None:
        """Gives all rows, whichever are needed."""
        return

    def charge(self, counts: Counts, rows: Tensor, passes: int, hidden: Tensor | None) -> None:
        """Charges live rows; the rows of a recorded step are the whole batch, in order."""
        counts.nfe.add_(self.live.long() * passes)
        if hidden is not None:
            counts.spared.add_(hidden * self.live)

    def cut(self, inputs: Pass, horizon: Tensor) -> Pass:
        """Masks the columns, and keeps the width."""
        visible = torch.arange(inputs.tokens.shape[1], device=horizon.device) < horizon.unsqueeze(1)
        if inputs.attention is not None:
            visible = visible & inputs.attention
        return inputs._replace(attention=visible)

    def note(self, log_normalizer: Tensor, sites: Sites) -> None:
        """Notes live rows with a normaliser that is not finite at a position that was asked for."""
        lawless = ~log_normalizer.isfinite()
        if sites.asked is not None:
            lawless = lawless & sites.asked
        lawless = lawless.view(len(self.live), -1).any(1)
        self.lawless.logical_or_(lawless & self.live)

    def check_free(self, reason: str) -> None:
        """Refuses it.

        Raises:
            ValueError: always.
        """
        raise ValueError(f"cuda_graph=True: this sampler {reason}.")

"""Define the interface by which a prediction runs its passes."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from dlm_sampling.prediction.ledger import Ledger
from dlm_sampling.prediction.model import RunModel
from dlm_sampling.prediction.rows import PassRows
from dlm_sampling.prediction.shapes import Shapes
from dlm_sampling.types import DenoiserOutput


class Passes(Protocol):
    """Define the interface by which a prediction runs its passes; `Predictor` implements it."""

    @property
    def model(self) -> RunModel:
        """Return the denoiser and the settings of the run."""
        ...

    @property
    def shapes(self) -> Shapes:
        """Return the layout of positions and passes."""
        ...

    @property
    def rows(self) -> PassRows:
        """Return the row tensors of the pass."""
        ...

    @property
    def ledger(self) -> Ledger | None:
        """Return the ledger that draws are noted in, or None if nobody asks for it."""
        ...

    def run(
        self,
        x: Tensor,
        t: Tensor,
        active: Tensor | None,
        temperature: Tensor | None = None,
        dt: Tensor | None = None,
    ) -> list[DenoiserOutput]:
        """Run the denoiser on the rows `active`; see `Predictor.run`."""
        ...

    def guided(
        self,
        x: Tensor,
        t: Tensor,
        active: Tensor | None,
        temperature: Tensor | None = None,
        dt: Tensor | None = None,
    ) -> tuple[list[DenoiserOutput], Tensor]:
        """Run the passes of a guidance on the rows `active`; see `Predictor.guided`."""
        ...

"""Predictions of fixed shape, which a CUDA graph can record: all rows, all columns of a window.

What is not asked for is passed over by the kernels, not left out of the shapes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from torch import Tensor

from dlm_sampling.prediction.lazy import LazyPrediction
from dlm_sampling.prediction.logits import Read
from dlm_sampling.prediction.positions import Sites
from dlm_sampling.prediction.predictor import PassRows, Predictor
from dlm_sampling.types import DenoiserOutput, Draw, RandomSource, Statistics, TokenLaw


class CapturedPrediction(LazyPrediction):
    """A prediction whose forward pass has run for every row."""

    _predictor: CapturedPredictor

    def evaluate(self, needed: Tensor) -> None:
        """Run the forward pass for all rows, whichever are needed."""
        if not self._values:
            self._pass(torch.arange(len(needed), device=needed.device))

    def _sites(self, where: Tensor) -> Sites:
        live = self._predictor.live.unsqueeze(1)
        return Sites.within(where & live, self._predictor.columns)

    def _draw(
        self,
        read: Read,
        sites: Sites,
        rng: RandomSource,
        law: TokenLaw,
        statistics: Statistics,
        sub: int,
        temperatures: Tensor | None = None,
    ) -> Draw:
        draw = super()._draw(read, sites, rng, law, statistics, sub, temperatures)
        self._predictor.report(draw.log_normalizer)
        return draw

    def draw_from(self, *_: Any, **__: Any) -> NoReturn:
        """Refused: as many laws as positions were asked for."""
        raise _changing()

    def draw_table(self, *_: Any, **__: Any) -> NoReturn:
        """Refused: as many laws as positions were asked for."""
        raise _changing()

    def table(self, *_: Any, **__: Any) -> NoReturn:
        """Refused: as many laws as positions were asked for."""
        raise _changing()

    def log_probs(self, where: Tensor) -> NoReturn:
        """Refused: as many laws as positions were asked for."""
        raise _changing()


def _changing() -> ValueError:
    return ValueError("cuda_graph=True: this sampler reads tables whose size changes per step.")


@dataclass
class CapturedPredictor(Predictor):
    """A predictor for all rows of a batch, of which some are live.

    Fields:
        columns: int64 [B, W], where draws may be asked for.
        live: bool [B], rows whose passes count.
        lawless: bool [B], set where logits defined no law.
    """

    columns: Tensor = field(init=False)
    live: Tensor = field(init=False)
    lawless: Tensor = field(init=False)

    @classmethod
    def of(cls, predictor: Predictor, lawless: Tensor) -> CapturedPredictor:
        """For the rows of a predictor, with whose count of passes it goes on."""
        made = cls(
            predictor.denoiser, predictor.law, predictor.attention, predictor.rows, predictor.nfe,
            predictor.given, predictor.guidance_scale, False, predictor.schedule,
        )  # fmt: skip
        made.lawless = lawless
        return made

    def begin(self, live: Tensor, columns: Tensor) -> None:
        """The step that follows moves the rows of `live` (bool [B])."""
        self.live, self.columns = live, columns

    def report(self, log_normalizer: Tensor) -> None:
        """Note live rows whose logits define no law, [B, L]; 0 where nothing was asked for."""
        self.lawless.logical_or_((~log_normalizer.isfinite()).any(1) & self.live)

    def __call__(
        self,
        x: Tensor,
        t: Tensor,
        temperature: Tensor | None = None,
        *,
        dt: Tensor | None = None,
    ) -> CapturedPrediction:
        """Predict the clean tokens of x [B, L] at time t [B]; one forward pass of every row."""
        prediction = CapturedPrediction(self, x, t, temperature, dt)
        prediction.evaluate(self.live)
        return prediction

    def charge(self, active: Tensor, passes: int) -> None:
        """Count forward passes of the live rows."""
        self.nfe.add_(self.live.long() * passes)

    def using(self, denoiser: Any) -> NoReturn:
        """Refused: a second network would need a graph of its own."""
        raise ValueError("cuda_graph=True: this sampler asks a second network.")

    def repeated(self, n: int) -> NoReturn:
        """Refused: the rows of a graph are fixed."""
        raise ValueError("cuda_graph=True: this sampler runs several steps of a row at once.")

    def _cropped(self, rows: PassRows, carry: Any) -> DenoiserOutput:
        if self.horizon is None:
            return self._padded(rows, carry, self.padded)
        column = torch.arange(rows.x.shape[1], device=rows.x.device)
        attention = rows.attention & (column < self.horizon.unsqueeze(1))
        return self._padded(rows._replace(attention=attention), carry, True)

"""Run a minimal loop over one block from any canvas, to fit LSD coefficients.

It has no NFE limits, events or stopping.  The engine begins with noise and ends with a text;
learning compares solvers that start from one canvas in the middle of the grid, so it takes the
sampler's own steps, with the engine's predictor and random numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from dlm_sampling import ops
from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.prediction.lazy import LazyPrediction
from dlm_sampling.prediction.model import Counts, RunModel
from dlm_sampling.prediction.predictor import Predictor
from dlm_sampling.prediction.rows import PassRows
from dlm_sampling.samplers.lsd.solvers import Learned
from dlm_sampling.types import Canvas, Clock, Sampler


@dataclass
class CachedPredictor(Predictor):
    """Predict once where the same canvas and time are asked for twice in a row.

    Fields:
        asked: the last canvas and time, and the answer.
    """

    asked: tuple[Tensor, Tensor, LazyPrediction] | None = field(default=None, init=False)

    def __call__(
        self,
        x: Tensor,
        t: Tensor,
        temperature: Tensor | None = None,
        *,
        dt: Tensor | None = None,
    ) -> LazyPrediction:
        """See `Predictor`."""
        if temperature is not None or dt is not None:
            return super().__call__(x, t, temperature, dt=dt)
        asked = self.asked
        if asked is None or not (torch.equal(asked[0], x) and torch.equal(asked[1], t)):
            asked = self.asked = (x, t, super().__call__(x, t))
        return asked[2]


@dataclass
class BlockLoop:
    """Run rows without a prompt.

    Fields:
        predict: the model, under the sampler's token law.
        rng: the rows' random numbers.
        first: int64 [B, L], the canvas at the beginning.
        nfe: int64 [B], forward passes of each row so far.
    """

    predict: CachedPredictor
    rng: ops.Rng
    first: Tensor
    nfe: Tensor

    @classmethod
    def begin(
        cls, denoiser: Denoiser, solver: Learned, length: int, seeds: Sequence[int]
    ) -> BlockLoop:
        """Return the rows of noise at time 1.

        Args:
            denoiser: the model.
            solver: whose schedule and token law count.
            length: positions of each row.
            seeds: one per row.

        Raises:
            ValueError: the model carries a state.
        """
        if denoiser.carries:
            raise ValueError(
                f"denoiser: {denoiser.family} carries a state from pass to pass, so that a canvas "
                "alone says nothing of its prediction; learn on a model without one."
            )
        rows, device = len(seeds), denoiser.device
        like = torch.zeros(rows, length, dtype=torch.int64, device=device)
        rng = ops.Rng.from_seeds(seeds, device=device)
        banned = {*solver.law.suppressed, *denoiser.suppressed}
        if denoiser.mask_token_id is not None:
            banned.add(denoiser.mask_token_id)
        law = replace(solver.law, suppressed=tuple(sorted(banned)))
        counts = Counts.zero(rows, device)
        model = RunModel(denoiser, law, counts, schedule=solver.schedule)
        predictor = CachedPredictor(model, PassRows(torch.arange(rows, device=device)))
        first = denoiser.process.prior(like, rng, denoiser.vocab_size)
        return cls(predictor, rng, first, counts.nfe)

    def canvas(self, tokens: Tensor) -> Canvas:
        """Return the canvas with these tokens; all that may be noise is unknown."""
        mask = self.predict.process.mask_token_id
        whole = torch.ones_like(tokens, dtype=torch.bool)
        unknown = whole if mask is None else tokens == mask
        return Canvas(tokens, unknown, whole, torch.zeros_like(self.nfe), mask)

    def times(self, solver: Learned, k: int, number: int) -> tuple[Tensor, Tensor]:
        """Return the ends of interval k of a grid, float64 [B]."""
        all_of_them = torch.full_like(self.nfe, number)
        t, s = (solver.time_at(torch.full_like(self.nfe, i), all_of_them) for i in (k, k + 1))
        return t, s

    def values(self, solver: Learned, tokens: Tensor, t: Tensor, where: Tensor) -> Tensor:
        """Return the prediction at `where` (bool [B, L]) as a table for the solver, [R, V]."""
        return self.predict(tokens, t).table(
            where, alpha=solver.schedule.alpha(t), reads=self.predict.process.rates_read
        )

    def leap(self, solver: Learned, tokens: Tensor, k: int, number: int) -> Tensor:
        """Return the canvas after interval k of the solver's grid of `number` intervals."""
        sampler: Sampler[Any] = solver
        canvas = self.canvas(tokens)
        state: Any = sampler.init(canvas)
        for stage in range(solver.passes):
            step = torch.full_like(self.nfe, k * solver.passes + stage)
            clock = Clock(step, torch.full_like(self.nfe, number * solver.passes))
            rng = self.rng.with_step(step)
            state, moved = sampler.step(state, canvas, clock, self.predict, rng)
            canvas = canvas._replace(tokens=moved.tokens, unknown=moved.unknown)
        return canvas.tokens

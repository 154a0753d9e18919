"""Guess the canvases of the next steps by taking the steps with stale logits; nothing of it stays.

See `prediction.speculation`, which predicts the guesses beside the canvas of the run.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dlm_sampling.engine.run import Run
from dlm_sampling.engine.state import RunState
from dlm_sampling.prediction.predictor import Predictor
from dlm_sampling.prediction.speculation import Asked, Guesses, NoDraftError, Stale
from dlm_sampling.types.rows import select_rows
from dlm_sampling.types.values import bools, ints


@dataclass(frozen=True)
class Speculation:
    """Guess what the steps of a run will ask the model.

    Fields:
        run: the settings that all steps share.
        guesses: the predictions of each row.
    """

    run: Run
    guesses: Guesses

    @classmethod
    def of(cls, run: Run) -> Speculation | None:
        """Return the speculation of a run, None without drafts."""
        width, denoiser = run.request.speculate, run.model.denoiser
        told = denoiser.time_conditioned or denoiser.step_conditioned
        return None if width == 1 else cls(run, Guesses(width, told))

    def before(self, state: RunState, predictor: Predictor, padded: bool) -> Predictor:
        """Return the predictor of a step that reads the guesses; state is that before the step."""

        def draft(rows: Tensor) -> list[list[Asked]]:
            return self.drafts(select_rows(state, rows.to(state.rows.device)), padded)

        self.guesses.draft = draft
        return replace(predictor, speculation=self.guesses)

    def drafts(self, state: RunState, padded: bool) -> list[list[Asked]]:
        """Return the canvases that the next steps of the rows ask for, K of each at most.

        The rows have a prediction in their block.  Their first canvas is that of this step.
        """
        run, guesses = self.run, self.guesses
        asked: list[list[Asked]] = [[] for _ in range(len(state))]
        places = list(range(len(state)))
        for _ in range(guesses.width * run.sampler.passes_per_step):
            latest = [guesses.latest[row] for row in ints(state.rows)]
            stale = Stale(latest, guesses.told, [asked[place] for place in places])
            # A cache would run the pass: nothing is run here.
            predictor = replace(run.predictor(state, padded), speculation=stale, cache=None)
            try:
                moved = run.move(state, predictor, check=False)
            except NoDraftError:
                break
            enough = [len(distinct(asked[place])) > guesses.width for place in places]
            going = ~moved.over & ~torch.tensor(enough, device=moved.over.device)
            if not bool(going.any()):
                break
            kept = replace(moved.state, cache=state.cache)
            state = select_rows(run.advance_step(kept), going)
            places = [place for place, goes in zip(places, bools(going), strict=True) if goes]
        return [distinct(found) for found in asked]


def distinct(asked: list[Asked]) -> list[Asked]:
    """Return the different ones of what was asked, in order."""
    found: list[Asked] = []
    for one in asked:
        if not any(one.same(other) for other in found):
            found.append(one)
    return found

"""Read the model's own law of a guided prediction, from the passes that have run."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dlm_sampling.prediction.lazy import LazyPrediction
from dlm_sampling.prediction.logits import PassLogits
from dlm_sampling.prediction.predictor import Predictor


class OwnPrediction(LazyPrediction):
    """Predict by the run's own pass alone, at temperature 1 with the suppressed ids.

    So it is whatever a guidance adds; its passes are those of the guided prediction.

    Args:
        predictor: that of the guided prediction.
        guided: the prediction.
    """

    def __init__(self, predictor: Predictor, guided: LazyPrediction) -> None:
        plain = predictor.model.own_law
        model = replace(predictor.model, guidance=None, guidance_scale=0.0, law=plain)
        passes = replace(predictor, model=model, ledger=None)
        super().__init__(passes, guided._x, guided._t, guided._temperature, guided._dt)
        self._guided, self._model = guided, model

    def evaluate(self, where: Tensor) -> PassLogits:
        """Return the logits of the own pass, which runs where the guided prediction needs it.

        Raises:
            ValueError: the guidance did not ask for it in some row of `where` (bool [A, L]).
        """
        found = self._guided.evaluate(where)
        if found.weights is not None:
            rows = where.any(1).nonzero()[:, 0]
            asked = found.weights[0, rows if found.slot is None else found.slot[rows]]
            if bool((asked == 0.0).any()):
                raise ValueError(
                    f"guidance={type(found.model.guidance).__name__}: asks other models only in "
                    "this step, so that the law of the run's own, by which the step is weighed, is "
                    "not known; give it a weight."
                )
        return replace(found, parts=found.parts[:1], weights=None, model=self._model)


@dataclass
class Answered(Predictor):
    """Answer every question of a sampler by one prediction, for a step that is taken again.

    Fields:
        answer: the prediction.
    """

    answer: LazyPrediction | None = None

    def __call__(
        self,
        x: Tensor,
        t: Tensor,
        temperature: Tensor | None = None,
        *,
        dt: Tensor | None = None,
    ) -> LazyPrediction:
        """Return the prediction.

        Raises:
            ValueError: it is of another canvas.
        """
        if self.answer is None or not torch.equal(self.answer.canvases, x):
            raise ValueError("sampler: it asks for other canvases when its step is taken again.")
        return self.answer

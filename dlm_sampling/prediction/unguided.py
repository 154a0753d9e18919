"""Read the model's own law of a guided prediction, from the passes that have run."""

from __future__ import annotations

import torch
from torch import Tensor

from dlm_sampling import ops
from dlm_sampling.prediction.lazy import LazyPrediction
from dlm_sampling.prediction.positions import Sites
from dlm_sampling.types import TokenLaw


def unguided_log_prob_of(prediction: LazyPrediction, tokens: Tensor, where: Tensor) -> Tensor:
    """Return the log-probability of tokens [A, L] under the model's own law, float64, else 0.

    The law is that of the run's own pass at temperature 1 with the suppressed ids, whatever a
    guidance adds; -inf in rows whose guidance did not ask for that pass.

    Args:
        prediction: of a canvas.
        tokens: int64 [A, L].
        where: bool [A, L], the positions.
    """
    sites, out = Sites.of(where), torch.zeros(where.shape, dtype=torch.float64).to(where.device)
    if not len(sites):
        return out
    logits = prediction.evaluate(where)
    own = logits.view(0)
    if own is None:
        return out.masked_fill(where, -torch.inf)
    law, index = TokenLaw(suppressed=prediction.law.suppressed), logits.index(sites)
    found = ops.log_prob_of(own, tokens[where], law=law, rows=index).double()
    if logits.weights is not None:
        found = found.masked_fill(logits.weights_at(index)[0] == 0.0, -torch.inf)
    return out.masked_scatter(where, found)

"""The model's own law under a guidance is that of the run without one."""

from __future__ import annotations

import torch

from dlm_sampling.guidance import Classifier
from dlm_sampling.prediction.unguided import unguided_log_prob_of
from tests.guidance.toys import CANVASES, EXACT_P, MASK, log_probs, predict


def test_a_tilt_leaves_the_own_law_in_reach() -> None:
    where = CANVASES == MASK
    tokens = torch.where(where, 1, CANVASES)
    tilted = Classifier(lambda x: x.double().sum(1), EXACT_P.vocab_size, 2.0)
    for guidance in (None, tilted):
        prediction, predictor = predict(guidance, EXACT_P, CANVASES)
        found = unguided_log_prob_of(prediction, tokens, where)
        plain = log_probs(None, EXACT_P, CANVASES)[:, 1]
        torch.testing.assert_close(found[where], plain.double(), rtol=0, atol=1e-12)
        assert not bool(found[~where].any())
        assert predictor.nfe.unique().tolist() == [1]  # the pass of the prediction serves both
    guided, _ = predict(tilted, EXACT_P, CANVASES)
    assert bool((guided.log_prob_of(tokens, where)[where] - plain).abs().max() > 0.1)
    none = unguided_log_prob_of(guided, tokens, torch.zeros_like(where))
    assert not bool(none.any())

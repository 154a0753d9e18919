"""The model's own law under a guidance is that of the run without one."""

from __future__ import annotations

import pytest
import torch

from dlm_sampling.guidance import Classifier, Product, Stitch
from dlm_sampling.prediction.unguided import Answered, OwnPrediction
from tests.guidance.toys import CANVASES, EXACT_P, EXACT_Q, MASK, log_probs, predict


def test_a_tilt_leaves_the_own_law_in_reach() -> None:
    where = CANVASES == MASK
    tokens = torch.where(where, 1, CANVASES)
    tilted = Classifier(lambda x: x.double().sum(1), EXACT_P.vocab_size, 2.0)
    for guidance in (None, tilted):
        prediction, predictor = predict(guidance, EXACT_P, CANVASES)
        found = OwnPrediction(predictor, prediction).log_prob_of(tokens, where)
        plain = log_probs(None, EXACT_P, CANVASES)[:, 1]
        torch.testing.assert_close(found[where], plain.double(), rtol=0, atol=1e-12)
        assert not bool(found[~where].any())
        assert predictor.nfe.unique().tolist() == [1]  # the pass of the prediction serves both
    guided, predictor = predict(tilted, EXACT_P, CANVASES)
    assert bool((guided.log_prob_of(tokens, where)[where] - plain).abs().max() > 0.1)
    none = OwnPrediction(predictor, guided).log_prob_of(tokens, torch.zeros_like(where))
    assert not bool(none.any())


def test_the_own_law_is_that_of_the_first_pass_and_unknown_without_it() -> None:
    where = CANVASES == MASK
    tokens = torch.where(where, 1, CANVASES)
    plain = log_probs(None, EXACT_P, CANVASES)[:, 1].double()
    for guide in (Product((EXACT_Q,), (1.0, 1.0)), Stitch(EXACT_Q, 0.8)):
        guided, predictor = predict(guide, EXACT_P, CANVASES, t=0.5)
        found = OwnPrediction(predictor, guided).log_prob_of(tokens, where)
        torch.testing.assert_close(found[where].double(), plain, rtol=0, atol=1e-12)
    other, predictor = predict(Stitch(EXACT_Q, 0.2), EXACT_P, CANVASES, t=0.5)
    with pytest.raises(ValueError, match="Stitch: asks other models only in this step"):
        OwnPrediction(predictor, other).log_prob_of(tokens, where)


def test_only_rows_that_are_read_need_their_own_pass() -> None:
    """One row asks its own model, all others the other one."""
    own = int((CANVASES == MASK).all(1).nonzero()[0, 0])
    t = torch.full((len(CANVASES),), 0.9).double()
    t[own] = 0.1
    where = torch.zeros_like(CANVASES, dtype=torch.bool)
    where[own] = True
    guided, predictor = predict(Stitch(EXACT_Q, 0.5), EXACT_P, CANVASES, t=t)
    found = OwnPrediction(predictor, guided).log_prob_of(torch.ones_like(CANVASES), where)
    plain = log_probs(None, EXACT_P, CANVASES[own, None])[:, 1].double()
    torch.testing.assert_close(found[own].double(), plain, rtol=0, atol=1e-12)
    where[own - 1] = CANVASES[own - 1] == MASK
    other, predictor = predict(Stitch(EXACT_Q, 0.5), EXACT_P, CANVASES, t=t)
    with pytest.raises(ValueError, match="Stitch: asks other models only in this step"):
        OwnPrediction(predictor, other).log_prob_of(torch.ones_like(CANVASES), where)


def test_a_step_that_is_taken_again_reads_the_same_canvases() -> None:
    prediction, predictor = predict(None, EXACT_P, CANVASES)
    again = Answered(predictor.model, predictor.rows, answer=prediction)
    t = torch.full((len(CANVASES),), 0.5).double()
    assert again(CANVASES.clone(), t) is prediction
    with pytest.raises(ValueError, match="asks for other canvases"):
        again(CANVASES.flip(0), t)

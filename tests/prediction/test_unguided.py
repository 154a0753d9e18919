"""The model's own law under a guidance is that of the run without one."""

from __future__ import annotations

import torch

from dlm_sampling.guidance import Classifier, Product, Stitch
from dlm_sampling.prediction.unguided import unguided_log_prob_of
from tests.guidance.toys import CANVASES, EXACT_P, EXACT_Q, MASK, log_probs, predict


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


def test_the_own_law_is_that_of_the_first_pass_and_unknown_without_it() -> None:
    where = CANVASES == MASK
    tokens = torch.where(where, 1, CANVASES)
    both, _ = predict(Product((EXACT_Q,), (1.0, 1.0)), EXACT_P, CANVASES)
    plain = log_probs(None, EXACT_P, CANVASES)[:, 1].double()
    torch.testing.assert_close(
        unguided_log_prob_of(both, tokens, where)[where], plain, rtol=0, atol=1e-12
    )
    early, late = (Stitch(EXACT_Q, switch) for switch in (0.2, 0.8))
    other, _ = predict(early, EXACT_P, CANVASES, t=0.5)  # the other model alone is asked
    found = unguided_log_prob_of(other, tokens, where)
    assert bool((found[where] == -torch.inf).all()) and not bool(found[~where].any())
    own, _ = predict(late, EXACT_P, CANVASES, t=0.5)
    torch.testing.assert_close(
        unguided_log_prob_of(own, tokens, where)[where], plain, rtol=0, atol=1e-12
    )

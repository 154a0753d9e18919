"""A token that left its law under filters leaves TRL's loss, without a number that is none."""

from __future__ import annotations

import pytest
import torch

from dlm_sampling.errors import SamplingWarning
from dlm_sampling.trl.likelihoods import TokenScores
from dlm_sampling.trl.lost_terms import without_lost

GONE = -torch.inf


def test_lost_tokens_do_not_count_and_others_stay() -> None:
    leaf = torch.tensor([[-1.0, -2.0, GONE, -3.0, -4.0]], requires_grad=True)
    inputs = {
        "old_per_token_logps": torch.tensor([[-1.5, GONE, -2.0, -3.0, -4.0]]),
        "ref_per_token_logps": torch.tensor([[-1.2, -2.0, GONE, GONE, -4.5]]),
        "completion_mask": torch.ones(1, 5, dtype=torch.long),
        "tool_mask": torch.tensor([[1, 1, 1, 1, 0]]),
    }
    scores = TokenScores(leaf * 1.0, torch.zeros(1, 5))
    with pytest.warns(SamplingWarning, match=r"3 of 4 .*likelihood=RunLikelihood\(law='model'\)"):
        found, kept = without_lost(scores, inputs)
    assert found.logprob.tolist() == [[-1.0, 0.0, 0.0, -3.0, -4.0]]
    assert kept["old_per_token_logps"].tolist() == [[-1.5, 0.0, 0.0, -3.0, -4.0]]
    near = [-1.2, 0.0, 0.0, -3.0, -4.5]  # equal to the policy's: divergence 0
    assert kept["ref_per_token_logps"].tolist() == [pytest.approx(near)]
    assert kept["tool_mask"].tolist() == [[1, 0, 0, 1, 0]]
    found.logprob.sum().backward()
    assert leaf.grad is not None and leaf.grad.tolist() == [[1.0, 0.0, 0.0, 1.0, 1.0]]


def test_a_batch_without_lost_tokens_is_left_as_it_is() -> None:
    scores = TokenScores(torch.full((1, 2), -1.0), torch.zeros(1, 2))
    inputs = {"completion_mask": torch.ones(1, 2)}
    found, kept = without_lost(scores, inputs)
    assert found is scores and kept is inputs

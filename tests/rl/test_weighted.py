"""wd1's loss by hand."""

from __future__ import annotations

import math

import pytest
import torch

from dlm_sampling.rl import wd1_loss


def test_weights_are_the_softmax_of_a_group() -> None:
    logprob = torch.tensor([-1.0, -2.0, -3.0, -4.0], requires_grad=True)
    loss = wd1_loss(logprob, torch.tensor([1.0, -1.0, 0.0, 0.0]), 2)
    good = math.exp(1) / (math.exp(1) + math.exp(-1))
    weight = (1 - good) - good  # of the better row of the first group; the second has none
    assert float(loss) == pytest.approx((weight * -1 - weight * -2) / 2)
    (grad,) = torch.autograd.grad(loss, logprob)
    assert grad.tolist() == pytest.approx([weight / 2, -weight / 2, 0.0, 0.0])
    for group in (1, 3):
        with pytest.raises(ValueError, match=f"group={group}"):
            wd1_loss(logprob, torch.zeros(4), group)
    with pytest.raises(ValueError, match=r"must be \[B\]"):
        wd1_loss(logprob, torch.zeros(3), 2)

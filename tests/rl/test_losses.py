"""Losses of GRPO against arithmetic by hand, and a first step whose ratio is 1."""

from __future__ import annotations

import math
import warnings

import pytest
import torch

from dlm_sampling import generate, replay
from dlm_sampling.errors import SamplingWarning
from dlm_sampling.rl import group_advantages, grpo_loss, k3_divergence
from tests.samplers.small import small_toy


def test_advantages_are_within_groups() -> None:
    rewards = torch.tensor([1.0, 3.0, 0.0, 0.0])
    assert group_advantages(rewards, 2, scale=False).tolist() == [-1.0, 1.0, 0.0, 0.0]
    scaled = group_advantages(rewards, 2)
    assert abs(float(scaled[1]) - 1 / (math.sqrt(2) + 1e-4)) < 1e-6
    for group in (1, 3):
        with pytest.raises(ValueError, match=f"group={group}: must be at least 2 and divide"):
            group_advantages(rewards, group)


def test_the_divergence_is_that_of_kullback_and_leibler_on_average() -> None:
    p, q = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.2, 0.6])
    terms = k3_divergence(p.log(), q.log())
    assert bool((terms > 0).all())
    assert abs(float((p * terms).sum() - (p * (p / q).log()).sum())) < 1e-6


def test_the_clipped_loss_is_that_of_its_formula() -> None:
    old = torch.tensor([[-1.0, -2.0, -3.0], [-1.0, -1.0, -1.0]])
    new = (old + torch.tensor([[0.5, 0.1, -0.5], [0.5, -0.5, 9.0]])).requires_grad_()
    advantages, where = torch.tensor([2.0, -1.0]), torch.tensor([[1, 1, 1], [1, 1, 0]]).bool()
    reference = old - 0.1
    found = grpo_loss(new, old, advantages, where, reference=reference, beta=0.3, clip_high=0.25)
    e = math.exp
    gains = [2 * 1.25, 2 * e(0.1), 2 * e(-0.5), -e(0.5), -0.8]
    gaps = [-0.6, -0.2, 0.4, -0.6, 0.4]
    near = sum(e(g) - g - 1 for g in gaps) / 5
    assert abs(float(found.loss) - (0.3 * near - sum(gains) / 5)) < 1e-6
    assert abs(float(found.divergence) - near) < 1e-6
    assert abs(float(found.clipped) - 2 / 5) < 1e-6
    (grad,) = torch.autograd.grad(found.loss, new)
    assert grad[1, 2] == 0.0  # not counted
    slope = 0.3 / 5 * (1 - e(-0.6))
    assert abs(float(grad[0, 0]) - slope) < 1e-6  # clipped: the divergence alone pulls
    with pytest.raises(ValueError, match=r"beta=0\.3: needs reference="):
        grpo_loss(new, old, advantages, where, beta=0.3)
    with pytest.raises(ValueError, match="must be"):
        grpo_loss(new, old[:, :2], advantages, where)


def test_the_first_ratio_is_one_and_the_gradient_that_of_reinforce() -> None:
    toy = small_toy(length=6, vocab_size=9)
    out = generate(
        toy, [[1]], max_new_tokens=5, steps=3, num_return_sequences=4, seed=0,
        sampler="llada", temperature=0.8, top_p=0.9, return_rollout=True,
    )  # fmt: skip
    assert out.rollout is not None
    old = out.rollout.logprob.double()
    new = replay(toy, out.rollout).logprob.double().requires_grad_()
    where = out.rollout.step_index >= 0
    weights = group_advantages(torch.tensor([1.0, 0.0, 0.0, 2.0]), 4).double()
    found = grpo_loss(new, old, weights, where)
    assert (found.ratio - 1).abs().max() < 1e-6
    assert float(found.clipped) == 0.0
    (grad,) = torch.autograd.grad(found.loss, new)
    assert torch.allclose(grad[where], (-weights[:, None] / where.sum()).expand(4, 6)[where])


def test_terms_that_do_not_count_leave_no_nan() -> None:
    new = torch.tensor([[-1.0, -torch.inf]], requires_grad=True)
    fixed = new.detach()
    where = torch.tensor([[True, False]])
    found = grpo_loss(new, fixed, torch.ones(1), where, reference=fixed - 0.5, beta=0.1)
    found.loss.backward()
    assert new.grad is not None and bool(new.grad.isfinite().all()) and new.grad[0, 1] == 0.0
    assert abs(float(found.divergence) - (math.exp(-0.5) - 0.5)) < 1e-6


def test_a_token_that_left_the_law_is_told_and_has_no_gradient() -> None:
    gone = torch.tensor([[-1.0, -torch.inf, -torch.inf]]).requires_grad_()
    old, where = torch.tensor([[-1.0, -2.0, -torch.inf]]), torch.tensor([[True, True, True]])
    with pytest.warns(SamplingWarning, match="2 of 3 log-probabilities that count are -inf"):
        found = grpo_loss(gone, old, torch.tensor([1.0]), where, reference=old, beta=0.1)
    assert found.ratio.tolist() == [[1.0, 0.0, 0.0]]
    assert float(found.loss.detach()) == pytest.approx(-1 / 3)
    found.loss.backward()
    assert gone.grad is not None
    assert gone.grad.tolist() == [[pytest.approx(-1 / 3), 0.0, 0.0]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        grpo_loss(gone, old, torch.tensor([1.0]), torch.tensor([[True, False, False]]))

"""Compute laws by another route than the library does, so that tests can compare the two.

For a chain with one-step matrices Q_1 .. Q_T and products Qbar_s = Q_1 ... Q_s, for example,

    leave-one-out:  p(x_s = y | x_t) ~ Q_t[y, x_t] sum_k loo(k) Qbar_s[k, y]
    posterior:      p(x_s = y | x_t) = sum_k post(k) Q_t[y, x_t] Qbar_s[k, y] / Qbar_t[k, x_t]

Three functions state rules of released programs that no sampler here follows: `next_position`,
`next_token` and `uniform_commits`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dlm_sampling.ops import top_k_positions
from dlm_sampling.processes.absorbing import Absorbing
from dlm_sampling.processes.tables import normalised, off_diagonal, per_position
from dlm_sampling.types import Clock


def _into(matrix: Tensor, x: Tensor) -> Tensor:
    """Column x of a matrix: the entries y -> x for all y, [..., V]."""
    return matrix.T[x]


def reverse_from_leave_one_out(loo: Tensor, x: Tensor, step: Tensor, before: Tensor) -> Tensor:
    """Return the law of x_s given x_t, one step back, leave-one-out law plugged in for x0.

    Args:
        loo: [..., V].
        x: x_t, int64 [...].
        step: Q_t, from s to t, [V, V].
        before: Qbar_s, from 0 to s, [V, V].

    Returns:
        [..., V].  Cost: one product with a [V, V] matrix per position.
    """
    return normalised(_into(step, x) * (loo @ before))


def reverse_from_posterior(post: Tensor, x: Tensor, step: Tensor, before: Tensor) -> Tensor:
    """Return the law of x_s given x_t from the posterior; see `reverse_from_leave_one_out`."""
    reached = _into(before @ step, x)  # Qbar_t[k, x]
    weights = torch.where(reached > 0, post / reached, 0.0)
    return _into(step, x) * (weights @ before)


def reverse_rates(post: Tensor, x: Tensor, rates: Tensor, transition: Tensor) -> Tensor:
    """Return the rates of x -> y backwards in time, 0 at x, [..., V].

        R(x -> y) = Q[y, x] sum_k post(k) q_t(y | k) / q_t(x | k)

    Campbell et al. 2022, arXiv:2205.14987.

    Args:
        post: posterior, [..., V].
        x: x_t, int64 [...].
        rates: Q at time t, Q[i, j] the rate of i -> j, [V, V].
        transition: P(x_t = j | x_0 = i), [V, V].
    """
    reached = _into(transition, x)
    ratio = torch.where(reached > 0, post / reached, 0.0) @ transition
    return off_diagonal(_into(rates, x) * ratio, x)


def forward_rates(x: Tensor, rates: Tensor) -> Tensor:
    """Return the rates of x -> y forwards in time, Q[x, y], 0 at x, [..., V]."""
    return off_diagonal(rates[x], x)


def absorbing_score_rates(process: Absorbing, score: Tensor, x: Tensor, beta: Tensor) -> Tensor:
    """Return the rates of unmasking from ratios s, beta s(y) at a mask for y != mask; [..., V].

    All other rates are 0.

    Unlike `Absorbing.rates` they keep the time scale that a network of scores has learnt.
    """
    masked = (x == process.mask_token_id).unsqueeze(-1)
    rates = per_position(beta, x, score) * score * masked
    return rates * (1.0 - process.noise(score))


def next_position(planner_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the law of the one position that changes, softmax(logits / temperature), [..., L].

    The released loop without a clock; it is not the reverse process, and its law has a bias.
    """
    return _tempered(planner_logits, temperature)


def next_token(denoiser_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the law of its new token, softmax(logits / temperature) without mask, [..., V].

    One temperature serves both choices.
    """
    return _tempered(denoiser_logits, temperature)


def _tempered(logits: Tensor, temperature: float) -> Tensor:
    if not temperature > 0.0:
        raise ValueError(f"temperature={temperature}: must be above 0; the released value is 1.")
    return (logits / temperature).softmax(-1)


def uniform_commits(
    confidence: Tensor, committed: Tensor, clock: Clock, threshold: float
) -> Tensor:
    """Return the positions that a step under uniform noise commits: overdue and confident ones.

        quota_i = max(0, ceil((i + 1) W / N) - committed so far)
        commit the quota's best, and all with c > threshold

    There is no mask: uncommitted positions hold uniform noise, drawn anew after every step.

    Args:
        confidence: [B, W], probability of the drawn token.
        committed: bool [B, W].
        clock: steps of the block.
        threshold: compared strictly.

    Returns:
        bool [B, W], a subset of the uncommitted positions.
    """
    width = committed.shape[1]
    due = ((clock.step + 1) * width + clock.steps - 1) // clock.steps
    quota = (due - committed.sum(1)).clamp_min(0)
    return top_k_positions(confidence, ~committed, quota) | (~committed & (confidence > threshold))

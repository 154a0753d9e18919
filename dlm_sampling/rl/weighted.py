"""Compute wd1's loss: log-likelihoods weighted by advantages, without ratios or an old policy.

    L = sum over i of (w-_i - w+_i) log pi(x_i),   w+ = softmax(A),  w- = softmax(-A)

The weights are those of the rows of one group, so that a group must not be torn apart.

Tang et al. 2025, "wd1: Weighted Policy Optimization for Reasoning in Diffusion Language Models",
arXiv:2507.08838.
"""

from __future__ import annotations

from torch import Tensor

from dlm_sampling.errors import check_whole
from dlm_sampling.rl.checks import check_numbers, check_shapes


def wd1_loss(logprob: Tensor, advantages: Tensor, group: int) -> Tensor:
    """Return the loss, a scalar: the mean over groups.

    Args:
        logprob: estimates of the rows' log-likelihoods, [B], with a graph; the paper takes the mean
            over tokens of `mean_field_logprob`.
        advantages: [B], rows of a prompt next to each other.
        group: G, rows per prompt.

    Raises:
        TypeError: group is no whole number, or the others are no tensors.
        ValueError: shapes differ, a value is NaN, B is no multiple of G, or G < 2.
    """
    check_shapes("[B]", logprob=logprob, advantages=advantages)
    check_numbers(infinite=True, logprob=logprob)
    check_numbers(infinite=False, advantages=advantages)
    check_whole("group", group)
    if group < 2 or len(advantages) % group:
        raise ValueError(
            f"group={group}: must be at least 2 and divide the {len(advantages)} rows."
        )
    scaled = advantages.detach().view(-1, group)
    weight = (-scaled).softmax(1) - scaled.softmax(1)
    return (weight * logprob.view(-1, group)).sum(1).mean()

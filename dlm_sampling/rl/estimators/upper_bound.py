"""Define `upper_bound`, the evidence upper bound that SPG pushes down for bad answers.

    u(x) = sum over i of (1 / beta) log E[p(x_i | x outside S)^beta],
    E over S that mask i: |S| uniform on 1..C, S uniform among those that hold i

A bound from below says nothing where it is to be lowered: it falls while the likelihood need not.
u is never below the bound of `elbo`, by Jensen's inequality.  It is above log p(x) for
beta >= C, by Hoelder's inequality: log p(x) averages products of C such factors over all orders.
For smaller beta, the paper's 1.5 included, it can lie below: two tokens whose good orders
coincide are enough (tests/rl/test_estimators.py has such a law).

Wang et al. 2025, "SPG: Sandwiched Policy Gradient for Masked Diffusion Language Models",
arXiv:2510.09541.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.errors import check_real, check_whole
from dlm_sampling.likelihood.clean_prefix import CacheName
from dlm_sampling.likelihood.elbo import DEFAULT_MASKS, checked_plan
from dlm_sampling.likelihood.mask_plans import MaskPlan, count
from dlm_sampling.rl.estimators.answers import Answers

BETA = 1.5


def upper_bound(
    denoiser: Denoiser,
    tokens: Tensor,
    *,
    editable: Tensor,
    seed: int | Sequence[int] | None = None,
    attention_mask: Tensor | None = None,
    masks: MaskPlan | None = None,
    n: int | None = None,
    beta: float = BETA,
    batch_size: int | None = None,
    cache: CacheName = "auto",
) -> Tensor:
    """Estimate u of each row in nats, [B]; NFE n per row.

    The logarithm of a mean over n masks is biased downwards; a token that no mask holds has no
    share.

    Args:
        denoiser: a model of masked diffusion.
        tokens: int64 [B, L], prompts with their answers.
        editable: bool [B, L], the positions of the answers.
        seed: one int, or one per row: the same for policy, old policy and reference within one
            iteration of the optimiser, another in the next.  Left out with `masks`.
        attention_mask: bool [B, L], False at padding; None when there is none.
        masks: the plan of `elbo(...).masks`, in place of n and seed, so that both
            bounds are seen through the same masks.
        n: masks per row; default 8.
        beta: >= 1.
        batch_size: canvases per forward pass; default B.
        cache: see `elbo`; at most one pass more.

    Raises:
        TypeError: beta is no number, n or seed no whole one, or masks no plan.
        ValueError: see `elbo`; beta < 1, n < 1, or masks beside n or seed or of other texts.
    """
    check_real("beta", beta)
    if not beta >= 1.0:
        raise ValueError(f"beta={beta}: must be at least 1; the paper takes {BETA}.")
    check_whole("n", n, optional=True)
    if n is not None and n < 1:
        raise ValueError(f"n={n}: must be at least 1.")
    drawn = seed if seed is not None or masks is None else 0
    answers = Answers.of(denoiser, tokens, editable, attention_mask, drawn, batch_size, cache)
    if masks is None:
        plan = count(answers.places, DEFAULT_MASKS if n is None else n)
    else:
        plan = checked_plan(masks, answers.inputs, n, seed)
    where = plan.masks
    logs = answers.logprobs(where, where)
    # log of weight times p^beta; a mask without the token adds nothing.
    weight = plan.weights.log().to(logs.dtype).unsqueeze(2)
    terms = (weight + beta * logs).masked_fill(~where, float("-inf"))
    covered = where.any(0)
    safe = terms.masked_fill(~covered, 0.0)  # a gradient of logsumexp over -inf alone is NaN
    share = (safe.logsumexp(0) - math.log(len(where))) / beta
    return share.masked_fill(~covered, 0.0).sum(1)

"""Define `coupled_logprob`: a mask, its complement, and all masked, so that each token is seen.

    l_i = (log p(x_i | all masked) + w_i log p(x_i | S or its complement, whichever masks i)) / 2,
    w_i = 1 / t for i in S, else 1 / (1 - t),   S of each position with chance t,   t in [a, b]

Three passes.  Every token gets a value from a partly written canvas, and the pair S and complement
has less variance than two masks that know nothing of each other.  It is not on the scale of a
log-likelihood: the expectation is half the one-pass value plus the bound (were t on all of (0, 1)).
The unbiased pair is `elbo(scheme="coupled")`.

Gong et al. 2025, "DiffuCoder", arXiv:2506.20639 (coupled-GRPO).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.errors import check_pair
from dlm_sampling.likelihood.clean_prefix import CacheName
from dlm_sampling.rl.estimators.answers import Answers

LEVELS = (0.2, 0.8)


def coupled_logprob(
    denoiser: Denoiser,
    tokens: Tensor,
    *,
    editable: Tensor,
    seed: int | Sequence[int],
    attention_mask: Tensor | None = None,
    levels: tuple[float, float] = LEVELS,
    batch_size: int | None = None,
    cache: CacheName = "auto",
) -> Tensor:
    """Return l_i of each token of the answers, [B, L], 0 elsewhere; NFE 3 per row.

    A row whose S or complement is empty takes 2 passes.

    Args:
        denoiser: a model of masked diffusion.
        tokens: int64 [B, L], prompts with their answers.
        editable: bool [B, L], the positions of the answers.
        seed: one int, or one per row: the same for policy, old policy and reference within one
            iteration of the optimiser, another in the next.
        attention_mask: bool [B, L], False at padding; None when there is none.
        levels: a and b.
        batch_size: canvases per forward pass; default B.
        cache: see `elbo`; at most one pass more.

    Raises:
        TypeError: levels is no pair of numbers.
        ValueError: see `elbo`; levels that are not 0 < a <= b < 1.
    """
    low, high = check_pair("levels", levels)
    if not 0.0 < low <= high < 1.0:
        raise ValueError(f"levels={levels}: must be 0 < a <= b < 1.")
    answers = Answers.of(denoiser, tokens, editable, attention_mask, seed, batch_size, cache)
    answer = answers.places.editable
    t = low + (high - low) * answers.places.level(0)
    chosen = answers.places.share(0, t)
    masks = torch.stack([answer, chosen, answer & ~chosen])
    every, inside, outside = answers.logprobs(masks, masks)
    t = t.to(every.dtype).unsqueeze(1)
    return (every + inside / t + outside / (1.0 - t)) / 2.0

"""Define `mean_field_logprob`: all tokens of an answer in one pass, as if independent.

    log p(x_i | prompt with some tokens masked, answer all masked),   one pass

It is the log-probability of a one-step sampler, not a bound of the likelihood.  Masked tokens of
the prompt, with chance p, make every iteration of the optimiser see another input.

Zhao et al. 2025, "d1: Scaling Reasoning in Diffusion LLMs via RL", arXiv:2504.12216 (diffu-GRPO).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.errors import check_real
from dlm_sampling.likelihood.clean_prefix import CacheName
from dlm_sampling.rl.estimators.answers import Answers


def mean_field_logprob(
    denoiser: Denoiser,
    tokens: Tensor,
    *,
    editable: Tensor,
    seed: int | Sequence[int],
    attention_mask: Tensor | None = None,
    prompt_masking: float = 0.15,
    batch_size: int | None = None,
    cache: CacheName = "auto",
) -> Tensor:
    """Return log p(x_i) of each token of the answers, [B, L], 0 elsewhere; NFE 1 per row.

    Args:
        denoiser: a model of masked diffusion.
        tokens: int64 [B, L], prompts with their answers.
        editable: bool [B, L], the positions of the answers.
        seed: one int, or one per row: the same for policy, old policy and reference within one
            iteration of the optimiser, another in the next.
        attention_mask: bool [B, L], False at padding; None when there is none.
        prompt_masking: chance p that a token of the prompt is masked.
        batch_size: canvases per forward pass; default B.
        cache: see `elbo`; at most one pass more.

    Raises:
        TypeError: prompt_masking is no number.
        ValueError: see `elbo`; prompt_masking outside of [0, 1].
    """
    check_real("prompt_masking", prompt_masking)
    if not 0.0 <= prompt_masking <= 1.0:
        raise ValueError(f"prompt_masking={prompt_masking}: must be in [0, 1].")
    answers = Answers.of(denoiser, tokens, editable, attention_mask, seed, batch_size, cache)
    answer, prompts = answers.places.editable, answers.prompts
    chance = torch.full_like(prompts.count, prompt_masking, dtype=torch.float64)
    hidden = answer | prompts.share(0, chance)
    return answers.logprobs(hidden[None], answer[None])[0]

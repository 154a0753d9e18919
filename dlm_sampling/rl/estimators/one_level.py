"""Define `one_level_logprob`: the mean log-probability of the tokens that one mask hides.

    l = mean over i in S of log p(x_i | x outside S),   S of each position with chance t

One pass.  The levels t of the iterations of an optimiser are spread evenly (`level_of_iteration`),
so that together they see the answer at all stages.  It is a mean per token, not a bound.

Yang et al. 2025, "MMaDA", arXiv:2505.15809 (UniGRPO).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.errors import check_real, check_whole
from dlm_sampling.likelihood.clean_prefix import CacheName
from dlm_sampling.rl.estimators.answers import Answers


def level_of_iteration(iteration: int, iterations: int, start: float) -> float:
    """Return t = (start + iteration / iterations) mod 1, the level of one iteration.

    Args:
        iteration: 0 to iterations - 1.
        iterations: steps of the optimiser on one batch.
        start: the level of iteration 0, uniform on [0, 1), drawn anew for each batch.

    Raises:
        TypeError: an argument is no number, or no whole one.
        ValueError: an argument is out of range.
    """
    check_whole("iteration", iteration)
    check_whole("iterations", iterations)
    check_real("start", start)
    if not 0 <= iteration < iterations:
        raise ValueError(f"iteration={iteration}: must be 0 to {iterations - 1} (iterations - 1).")
    if not 0.0 <= start < 1.0:
        raise ValueError(f"start={start}: must be in [0, 1).")
    return (start + iteration / iterations) % 1.0


def one_level_logprob(
    denoiser: Denoiser,
    tokens: Tensor,
    *,
    editable: Tensor,
    level: float,
    seed: int | Sequence[int],
    attention_mask: Tensor | None = None,
    batch_size: int | None = None,
    cache: CacheName = "auto",
) -> Tensor:
    """Return l of each row, [B]; 0 where the mask is empty.  NFE at most 1 per row.

    Args:
        denoiser: a model of masked diffusion.
        tokens: int64 [B, L], prompts with their answers.
        editable: bool [B, L], the positions of the answers.
        level: t, the chance that a token is masked.
        seed: one int, or one per row: the same for policy, old policy and reference within one
            iteration of the optimiser, another in the next.
        attention_mask: bool [B, L], False at padding; None when there is none.
        batch_size: canvases per forward pass; default B.
        cache: see `elbo`; at most one pass more.

    Raises:
        TypeError: level is no number.
        ValueError: see `elbo`; level outside of [0, 1].
    """
    check_real("level", level)
    if not 0.0 <= level <= 1.0:
        raise ValueError(f"level={level}: must be in [0, 1].")
    answers = Answers.of(denoiser, tokens, editable, attention_mask, seed, batch_size, cache)
    chance = torch.full_like(answers.places.count, level, dtype=torch.float64)
    mask = answers.places.share(0, chance)
    return answers.logprobs(mask[None], mask[None])[0].sum(1) / mask.sum(1).clamp_min(1)

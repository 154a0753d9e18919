"""Take the tokens out of TRL's loss that left the law they were drawn in.

Behind filters (top_p, top_k, min_p) a token that was drawn can leave the law as soon as the weights
move: its log-probability is -inf, and 0 times that is no number, in a loss that masks by products.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch

from dlm_sampling.errors import SamplingWarning
from dlm_sampling.trl.likelihoods import TokenScores

OLD, REFERENCE = "old_per_token_logps", "ref_per_token_logps"
"""Keys of the log-probabilities in the batches of the trainer."""


def without_lost(scores: TokenScores, inputs: dict[str, Any]) -> tuple[TokenScores, dict[str, Any]]:
    """Return scores and a batch whose loss has no term of a token that left its law.

    Where policy or old policy give -inf, the token does not count (`tool_mask`); where only the
    reference does, its divergence is 0.

    Args:
        scores: of the policy, [B, C].
        inputs: batch of the trainer.
    """
    new, old, reference = scores.logprob.detach(), inputs.get(OLD), inputs.get(REFERENCE)
    lost = torch.isinf(new)
    if old is not None:
        lost = lost | torch.isinf(old)
    far = lost if reference is None else lost | torch.isinf(reference)
    if not bool(far.any()):
        return scores, inputs
    counted = inputs["completion_mask"] * inputs.get("tool_mask", 1)
    total, gone = int(counted.sum()), int((counted * far).sum())
    if gone:
        warnings.warn(
            f"{gone} of {total} log-probabilities that count are -inf, and leave the loss: the law "
            "has filters, which the token no longer passes. Train with GRPOConfig(top_p=1.0) and "
            "no top_k or min_p, or with likelihood=RunLikelihood(law='model').",
            SamplingWarning,
            stacklevel=3,
        )
    kept = {**inputs, "tool_mask": counted * ~lost}
    if old is not None:
        kept[OLD] = old.masked_fill(lost, 0.0)
    if reference is not None:
        kept[REFERENCE] = torch.where(far, new.masked_fill(lost, 0.0), reference)
    return scores._replace(logprob=scores.logprob.masked_fill(lost, 0.0)), kept

"""Convert one kind of prediction into another: posterior, leave-one-out law, score.

For a position with token x at noise level alpha, with b = (1 - alpha) / S for uniform noise over S
symbols:

    posterior      post(y) = P(x0_i = y | x_t)                what cross-entropy learns
    leave_one_out  loo(y)  = P(x0_i = y | x_t without i)      what a plug-in reverse kernel needs
    log_score      log s(y),  s(y) = p_t(x with y at i) / p_t(x)

    post(y) ~ loo(y) (alpha 1[y = x] + b)
    s(y) = (alpha loo(y) + b) / (alpha loo(x) + b)

Under masking the first two agree at masked positions, a position that holds a token is known, and
s(y) = alpha / (1 - alpha) p(y) at a mask.  Campbell et al. 2022, arXiv:2205.14987 (score from
posterior); Lou et al. 2024, arXiv:2310.16834 (scores); Sahoo et al. 2025, arXiv:2506.10892 (Duo).

A table `values` [..., V] holds probabilities, or ratios s (not their logarithms) for "log_score".
Feeding one kind to a rule that needs another does not converge to the data law.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from dlm_sampling.processes.tables import normalised, one_hot, per_position, value_at
from dlm_sampling.types import PredictionKind
from dlm_sampling.types.values import every

_LEAST_NOISE = 1e-15  # of b: without noise a posterior does not say what the other tokens do


def _noise(values: Tensor, x: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """Return alpha and b of every position, [..., 1] each."""
    a = per_position(alpha, x, values)
    return a, (1.0 - a) / values.shape[-1]


def posterior_from_leave_one_out(loo: Tensor, x: Tensor, alpha: Tensor) -> Tensor:
    """Return post(y) ~ loo(y) (alpha 1[y = x] + b), uniform noise, [..., V]."""
    a, b = _noise(loo, x, alpha)
    return normalised(loo * (a * one_hot(x, loo) + b))


def leave_one_out_from_posterior(post: Tensor, x: Tensor, alpha: Tensor) -> Tensor:
    """Return loo(y) ~ post(y) / (alpha 1[y = x] + b), uniform noise, [..., V].

    At b = 0 it is the limit from above.
    """
    a, b = _noise(post, x, alpha)
    b = b.clamp_min(_LEAST_NOISE)
    return normalised(post / (a * one_hot(x, post) + b))


def score_from_leave_one_out(loo: Tensor, x: Tensor, alpha: Tensor) -> Tensor:
    """Return s(y) = (alpha loo(y) + b) / (alpha loo(x) + b), uniform noise, [..., V]."""
    a, b = _noise(loo, x, alpha)
    return (a * loo + b) / (a * value_at(loo, x) + b)


def leave_one_out_from_score(score: Tensor, x: Tensor, alpha: Tensor) -> Tensor:
    """Return loo(y) ~ max{s(y) / sum s - b, 0} / alpha, uniform noise, [..., V]."""
    _, b = _noise(score, x, alpha)
    excess = (score / score.sum(-1, keepdim=True) - b).clamp_min(0.0)
    # Ratios that are all 1, pure noise, say nothing: the uniform law then, not 0 / 0.
    total = excess.sum(-1, keepdim=True)
    return (excess / total).where(total > 0, 1.0 / score.shape[-1])


def _same(values: Tensor, x: Tensor, alpha: Tensor) -> Tensor:
    return values


Rule = Callable[[Tensor, Tensor, Tensor], Tensor]
_TO_LEAVE_ONE_OUT: dict[PredictionKind, Rule] = {
    "posterior": leave_one_out_from_posterior,
    "leave_one_out": _same,
    "log_score": leave_one_out_from_score,
}
_FROM_LEAVE_ONE_OUT: dict[PredictionKind, Rule] = {
    "posterior": posterior_from_leave_one_out,
    "leave_one_out": _same,
    "log_score": score_from_leave_one_out,
}


def convert_uniform(
    values: Tensor, x: Tensor, alpha: Tensor, source: PredictionKind, target: PredictionKind
) -> Tensor:
    """Convert one kind of prediction into another, uniform noise.

    Args:
        values: probabilities or ratios s, [..., V].
        x: current tokens, int64 [...].
        alpha: noise level in (0, 1), broadcast to [...].
        source: the kind of prediction in `values`.
        target: the kind of prediction to return.

    Returns:
        [..., V] in the type of `values`.
    """
    if source == target:
        return values
    return _FROM_LEAVE_ONE_OUT[target](_TO_LEAVE_ONE_OUT[source](values, x, alpha), x, alpha)


def score_from_masked_law(p0: Tensor, x: Tensor, alpha: Tensor, mask_token_id: int) -> Tensor:
    """Return s(y) = alpha / (1 - alpha) p(y), s(mask) = 1, at a mask; else 1 at x, 0 elsewhere.

    At a position that holds a token the ratio to the mask is left out: its reverse rate is 0.
    """
    a = per_position(alpha, x, p0)
    score = a / (1.0 - a) * p0
    score[..., mask_token_id] = 1.0
    return _at_masks(score, x, mask_token_id)


def carried_over(p0: Tensor, x: Tensor, mask_token_id: int) -> Tensor:
    """Return the law of the clean token: p0 without the mask at masks, the token elsewhere."""
    weights = p0.clamp_min(0.0)
    weights[..., mask_token_id] = 0.0
    return _at_masks(weights / weights.sum(-1, keepdim=True), x, mask_token_id)


def convert_absorbing(
    values: Tensor,
    x: Tensor,
    alpha: Tensor,
    source: PredictionKind,
    target: PredictionKind,
    mask_token_id: int,
) -> Tensor:
    """Convert one kind of prediction into another, masking; arguments as in `convert_uniform`.

    Posterior and leave-one-out law agree wherever they are read, and the scale of ratios is
    dropped.
    """
    if source == target == "log_score":
        return values
    p0 = carried_over(values, x, mask_token_id)
    return score_from_masked_law(p0, x, alpha, mask_token_id) if target == "log_score" else p0


def _at_masks(table: Tensor, x: Tensor, mask_token_id: int) -> Tensor:
    """Return `table` at masked positions, 1[y = x] elsewhere."""
    masked = x == mask_token_id
    if x.is_cpu and every(masked):  # as most steps ask; elsewhere the host would wait
        return table
    return table.where(masked.unsqueeze(-1), one_hot(x, table))

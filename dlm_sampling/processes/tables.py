"""Work on tables of laws, one law of the next token per position, [..., V]."""

from __future__ import annotations

from torch import Tensor

from dlm_sampling.ops import filtered_log_law
from dlm_sampling.types import PredictionKind, Process, TokenLaw


def one_hot(x: Tensor, like: Tensor) -> Tensor:
    """Return 1[y = x] as a law, [..., V] in the type and with the columns of `like`."""
    return like.new_zeros(*x.shape, like.shape[-1]).scatter(-1, x.unsqueeze(-1), 1.0)


def value_at(table: Tensor, x: Tensor) -> Tensor:
    """Return table(x), [..., 1]."""
    return table.gather(-1, x.unsqueeze(-1))


def per_position(value: Tensor, x: Tensor, like: Tensor) -> Tensor:
    """Return a scalar, [B, 1] or [B, L] value of every position, [..., 1] in the type of `like`."""
    return value.to(like.dtype).expand(x.shape).unsqueeze(-1)


def normalised(weights: Tensor) -> Tensor:
    """Set negative weights to 0 and divide each row by its sum.

    The law of an argmax race over the raw weights, which is what released solvers draw when a step
    is too long for its rates.
    """
    weights = weights.clamp_min(0.0)
    return weights / weights.sum(-1, keepdim=True)


def off_diagonal(rates: Tensor, x: Tensor) -> Tensor:
    """Return the rates of leaving x: 0 in the column of the current token."""
    return rates.scatter(-1, x.unsqueeze(-1), 0.0)


def with_stay(leave: Tensor, x: Tensor) -> Tensor:
    """Make a law from the probabilities of leaving; the rest of the probability stays at x.

    The rest may be negative: by rounding, which becomes 0, or because Euler's step is too long,
    which stays for `normalised`.
    """
    leave = off_diagonal(leave, x)
    left = 1.0 - leave.sum(-1, keepdim=True)
    return leave.scatter(-1, x.unsqueeze(-1), left.where(left.abs() > 1e-12, left.clamp_min(0.0)))


def clean_table(
    logits: Tensor,
    x: Tensor,
    alpha: Tensor,
    *,
    law: TokenLaw,
    process: Process,
    source: PredictionKind,
    target: PredictionKind,
) -> Tensor:
    """Turn a network's output into probabilities or ratios of another kind, float64 [r, V].

    Temperature and filters act on the law that the network predicts; a network of scores has none,
    so there they act on the leave-one-out law of its scores, and with nothing to filter the scores
    stay as they are, with their learned scale.

    Args:
        logits: output of the network, [r, V].
        x: current tokens, int64 [r].
        alpha: probability of being clean, [r].
        law: temperature, filters and suppressed ids.
        process: converts between kinds.
        source: the kind of prediction in `logits`.
        target: the kind of prediction to return.
    """
    values = logits.double()
    if source == "log_score":
        ratios = values.exp()
        if law == TokenLaw(suppressed=_masks(process)):
            return process.convert(ratios, x, alpha, source, target)
        source = "leave_one_out"
        values = process.convert(ratios, x, alpha, "log_score", source).log()
    return process.convert(filtered_log_law(values, law).exp(), x, alpha, source, target)


def _masks(process: Process) -> tuple[int, ...]:
    return () if process.mask_token_id is None else (process.mask_token_id,)

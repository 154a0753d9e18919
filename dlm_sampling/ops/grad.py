"""Compute log-probabilities of given tokens with a graph for autograd.

    ln p(v) = x_v / T - ln sum_u exp(x_u / T),   d ln p(v) / d x_u = (1[u = v] - p(u)) / T

over the tokens that pass the filters, which count as fixed.  Logits are made again going backward
(Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost", arXiv:1604.06174), so that a
block of them exists at a time, and never a law of all positions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils import checkpoint

from dlm_sampling.ops.laws import refuse_lawless
from dlm_sampling.ops.log_probs import filtered_log_law, log_probs
from dlm_sampling.ops.reshape import Adjust
from dlm_sampling.ops.sources import LogitRows
from dlm_sampling.ops.temperature import positive
from dlm_sampling.ops.vocabulary import allowed_ids
from dlm_sampling.types import TokenLaw

_MODEL = TokenLaw()


def differentiable_log_prob_of(
    source: LogitRows,
    tokens: Tensor,
    *,
    law: TokenLaw = _MODEL,
    check: bool = True,
    adjust: Adjust | None = None,
) -> Tensor:
    """Return `log_prob_of` with a graph for first derivatives, [R].

    Args:
        source: logits of R rows, whose `fetch` leaves a graph, and may run twice.
        tokens: int64 [R].
        law: temperature, filters and suppressed ids; the gradient is 0 at temperature 0, and for
            tokens that do not pass.
        check: refuse rows that define no law.
        adjust: changes the logits first, with a graph; see `draw`.

    Returns:
        float64 for float64 logits, else float32.

    Raises:
        ValueError: a suppressed id outside of the vocabulary; with `check`, a row without a law.
    """
    every = torch.arange(source.count, device=source.device)
    remade: Any = checkpoint
    options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
    parts: list[Tensor] = [
        remade.checkpoint(_block, source, here, tokens[here], law, check, adjust, **options)
        for here in cast("tuple[Tensor, ...]", every.split(source.block))
    ]
    return torch.cat(parts)  # a source without rows has one block, which is empty


def differentiable_entropy(
    source: LogitRows, *, law: TokenLaw = _MODEL, adjust: Adjust | None = None
) -> Tensor:
    """Return the entropy (nats) of each row's law, [R], with a graph in grad mode.

    Args:
        source: logits of R rows; its `fetch` may run twice.
        law: temperature, filters and suppressed ids; tokens that do not pass count as fixed.
        adjust: changes the logits first, with a graph; see `draw`.
    """

    def block(here: Tensor) -> Tensor:
        logits = source.fetch(here)
        logs = filtered_log_law(logits if adjust is None else adjust(logits, here), law)
        lowest = torch.finfo(logs.dtype).min  # 0 * -inf is no number
        return -(logs.exp() * logs.clamp_min(lowest)).sum(1)

    every = torch.arange(source.count, device=source.device)
    parts = cast("tuple[Tensor, ...]", every.split(source.block))
    return torch.cat([remade(block, here) for here in parts])


def remade(call: Callable[[Tensor], Tensor], argument: Tensor) -> Tensor:
    """Return `call(argument)`; in grad mode nothing is kept, and it runs again going backward."""
    if not torch.is_grad_enabled():
        return call(argument)
    module: Any = checkpoint
    return module.checkpoint(call, argument, use_reentrant=False, preserve_rng_state=False)


def _block(
    source: LogitRows,
    here: Tensor,
    tokens: Tensor,
    law: TokenLaw,
    check: bool,
    adjust: Adjust | None,
) -> Tensor:
    """Return the log-probabilities of the rows `here` (int64 [r]) of a source."""
    logits = source.fetch(here)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if adjust is not None:
        logits = adjust(logits, here)
    function: Any = _LogProbOf
    return function.apply(logits, tokens, law, int(here[0]) if check and len(here) else None)


class _LogProbOf(torch.autograd.Function):
    """Map logits [r, V] and ids [r] to [r], with the operations of `log_prob_of`, in its order."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, tokens: Tensor, law: TokenLaw, first: int | None) -> Any:
        x = _passing(logits, law, first is not None)
        peak = x.amax(-1, keepdim=True)
        if first is not None:
            refuse_lawless(peak[:, 0], first)
        inverse = 1.0 / positive(law.temperature)
        x.sub_(peak).mul_(inverse)
        total, ids = x.logsumexp(-1, keepdim=True), tokens.unsqueeze(1)
        chosen = (x.gather(1, ids) - total).squeeze(1)
        ctx.save_for_backward(x, total, ids, chosen > -math.inf)
        ctx.inverse_temperature = inverse
        return chosen

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, total, ids, possible = ctx.saved_tensors
        slope = torch.where(possible, grads[0] * ctx.inverse_temperature, 0.0).unsqueeze(1)
        out = (x - total).exp_().mul_(-slope).scatter_add_(1, ids, slope)
        return out, None, None, None


def _passing(logits: Tensor, law: TokenLaw, check: bool) -> Tensor:
    """Return a copy with -inf at the tokens that do not pass."""
    if law.filters or law.reshapes or law.temperature == 0.0:
        return logits.masked_fill(log_probs(logits, law=law, check=check) == -math.inf, -math.inf)
    allowed = allowed_ids(logits.shape[1], tuple(law.suppressed), logits.device)
    return logits.index_fill(1, allowed.suppressed.ids, -math.inf)

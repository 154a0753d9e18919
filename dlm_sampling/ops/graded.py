"""Log-probabilities of given tokens with a graph for autograd.

    ln p(v) = x_v / T - ln sum_u exp(x_u / T),   d ln p(v) / d x_u = (1[u = v] - p(u)) / T

over the tokens that pass the filters, which count as fixed.  Logits are made again going backward
(Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost", arXiv:1604.06174), so that a
block of them exists at a time, and never a law of all positions.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils import checkpoint

from dlm_sampling.ops.heat import heated
from dlm_sampling.ops.log_law import log_probs
from dlm_sampling.ops.rows import LogitRows
from dlm_sampling.ops.tiles import Table, refuse_lawless
from dlm_sampling.types import TokenLaw

_MODEL = TokenLaw()


def graded_log_prob_of(
    source: LogitRows, tokens: Tensor, *, law: TokenLaw = _MODEL, check: bool = True
) -> Tensor:
    """`log_prob_of` for logits that want gradients, [R]; equal to it within rounding.

    Args:
        source: logits of R rows, whose `fetch` leaves a graph, and may run twice.
        tokens: int64 [R].
        law: temperature, filters and suppressed ids; at temperature 0 the gradient is 0.
        check: refuse rows that define no law.

    Returns:
        float64 for float64 logits, else float32.

    Raises:
        ValueError: a suppressed id outside of the vocabulary; with `check`, a row without a law.
    """
    every = torch.arange(source.count, device=source.device)
    remade: Any = checkpoint
    options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
    parts: list[Tensor] = [
        remade.checkpoint(_block, source, here, tokens[here], law, check, **options)
        for here in cast("tuple[Tensor, ...]", every.split(source.block))
    ]
    return torch.cat(parts) if parts else torch.zeros(0, device=source.device)


def _block(source: LogitRows, here: Tensor, tokens: Tensor, law: TokenLaw, check: bool) -> Tensor:
    """The rows `here` (int64 [r]) of a source."""
    logits = source.fetch(here)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if law.filters or law.temperature == 0.0:
        with torch.no_grad():
            passes = log_probs(logits.detach(), law=law, check=check) > -math.inf
        logits = logits.masked_fill(~passes, -math.inf)
    else:
        banned = Table.build(source.vocab_size, law, logits.device).suppressed
        logits = logits.index_fill(1, banned, -math.inf)
    peak = logits.detach().amax(-1, keepdim=True)
    if check:
        refuse_lawless(peak[:, 0], int(here[0]))
    # The operations of `log_prob_of`, in its order, for the same rounding.
    x = (logits - peak) * (1.0 / heated(law.temperature))
    return (x.gather(1, tokens.unsqueeze(1)) - x.logsumexp(-1, keepdim=True)).squeeze(1)

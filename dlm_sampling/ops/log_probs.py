"""Compute log-probabilities under the sampled law: of every token, or of given tokens.

ln p(v) = (x_v - m) / T - ln sum_u exp((x_u - m) / T),   over the tokens that pass the filters
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from dlm_sampling.ops._dispatch import kernel
from dlm_sampling.ops.combined import Pair
from dlm_sampling.ops.filters import truncate
from dlm_sampling.ops.host_sync import sync_allowed
from dlm_sampling.ops.laws import refuse_lawless
from dlm_sampling.ops.reshape import Adjust, reshaped_logits
from dlm_sampling.ops.scratch import Scratch, scratch_for
from dlm_sampling.ops.sources import Block, LogitRows, Source, blocks, one_of, shape_of
from dlm_sampling.ops.temperature import Temperature, inverse_temperature, positive
from dlm_sampling.ops.tiles import chunks
from dlm_sampling.ops.vocabulary import allowed_ids
from dlm_sampling.types import TokenLaw

_MODEL = TokenLaw()


def log_probs(
    source: Source | Pair,
    *,
    law: TokenLaw = _MODEL,
    rows: Tensor | None = None,
    check: bool = True,
    temperatures: Tensor | None = None,
    adjust: Adjust | None = None,
) -> Tensor:
    """Return the logarithm of the sampled law, [R, V].

    Args:
        source: logits [N, V], a `LogitRows`, or a `Pair`.
        law: temperature, filters and suppressed ids; `TokenLaw()` is the model's own law.
        rows: int64 [R], or None for all rows in order.
        check: refuse rows that define no law.
        temperatures: float [R] instead of the law's.
        adjust: changes the logits first; see `draw`.

    Returns:
        float64 for float64 logits, else float32.

    Raises:
        ValueError: as `draw`.
    """
    check = check and sync_allowed()
    plain = source if isinstance(source, Tensor | LogitRows) else source.first
    vocab, like = _checked(plain, rows, temperatures)
    tabled = law.reshapes or adjust is not None
    fused = None if tabled else kernel("log_probs", like, dtype=plain.dtype, vocab=vocab)
    if fused is not None:
        return fused(source, law=law, rows=rows, check=check, temperatures=temperatures)
    plan = _plan(like, vocab, law, check, temperatures, adjust)
    table = source if isinstance(source, Tensor | LogitRows) else source.rows()
    parts: list[Tensor] = []
    for block in blocks(table, rows):
        cuts = chunks(block, filters=law.filters or tabled)
        parts += [_log_law(block, here, plan) for here in cuts]
    return one_of(parts, like.new_empty(0, vocab))


def log_prob_of(
    source: Source | Pair,
    tokens: Tensor,
    *,
    law: TokenLaw = _MODEL,
    rows: Tensor | None = None,
    check: bool = True,
    temperatures: Tensor | None = None,
    adjust: Adjust | None = None,
) -> Tensor:
    """Return the log-probability of given tokens under the sampled law, [R], without an [R, V].

    Args:
        source: logits [N, V], a `LogitRows`, or a `Pair`.
        tokens: int64 [R].
        law: temperature, filters and suppressed ids; `TokenLaw()` is the model's own law.
        rows: int64 [R], or None for all rows in order.
        check: refuse rows that define no law, and tokens that are no ids.
        temperatures: float [R] instead of the law's.
        adjust: changes the logits first; see `draw`.

    Returns:
        float64 for float64 logits, else float32.

    Raises:
        ValueError: as `draw`, and with `check` a token outside of the vocabulary.
    """
    check = check and sync_allowed()
    plain = source if isinstance(source, Tensor | LogitRows) else source.first
    vocab, like = _checked(plain, rows, temperatures)
    if check and bool(((tokens < 0) | (tokens >= vocab)).any()):
        low, high = int(tokens.min()), int(tokens.max())
        raise ValueError(f"tokens span {low}..{high}: must be ids in [0, {vocab}).")
    tabled = law.reshapes or adjust is not None
    fused = None if tabled else kernel("log_prob_of", like, dtype=plain.dtype, vocab=vocab)
    if fused is not None:
        return fused(source, tokens, law=law, rows=rows, check=check, temperatures=temperatures)
    plan = _plan(like, vocab, law, check, temperatures, adjust)
    table = source if isinstance(source, Tensor | LogitRows) else source.rows()
    if rows is not None and not check:
        rows = rows.clamp_min(0)
    parts: list[Tensor] = []
    for block in blocks(table, rows):
        ids = tokens[block.span, None]
        for here in chunks(block, filters=law.filters or tabled):
            parts.append(_log_law(block, here, plan, ids[here])[:, 0])
    return one_of(parts, like)


def filtered_log_law(logits: Tensor, law: TokenLaw) -> Tensor:
    """Return `log_probs` of logits of any leading shape, [..., V]; with a graph in grad mode.

    The tokens that pass the filters count as fixed.
    """
    if torch.is_grad_enabled() and logits.requires_grad and law.temperature > 0.0:
        exact = logits.to(torch.promote_types(logits.dtype, torch.float32))
        with torch.no_grad():
            dropped = filtered_log_law(exact, law) == -math.inf
        return (exact.masked_fill(dropped, -math.inf) / law.temperature).log_softmax(-1)
    table = logits.detach().reshape(-1, logits.shape[-1])  # at temperature 0 it has no slope
    return log_probs(table, law=law).view(logits.shape)


class _Plan(NamedTuple):
    """Hold the values that all blocks of a call share."""

    law: TokenLaw
    suppressed: Tensor  # int64 [n]
    scratch: Scratch
    check: bool
    temperature: Temperature  # one number, or [R]
    adjust: Adjust | None


def _checked(
    source: Source, rows: Tensor | None, temperatures: Tensor | None
) -> tuple[int, Tensor]:
    """Return V, and no elements of the dtype and on the device of the result."""
    count, vocab = shape_of(source)
    wanted = count if rows is None else rows.shape[0]
    if temperatures is not None and temperatures.shape != (wanted,):
        shape = tuple(temperatures.shape)
        raise ValueError(f"temperatures has shape {shape}: must be ({wanted},), one per row drawn.")
    dtype = torch.float64 if source.dtype == torch.float64 else torch.float32
    return vocab, torch.empty(0, dtype=dtype, device=source.device)


def _plan(
    like: Tensor,
    vocab: int,
    law: TokenLaw,
    check: bool,
    temperatures: Tensor | None,
    adjust: Adjust | None,
) -> _Plan:
    suppressed = allowed_ids(vocab, tuple(law.suppressed), like.device).suppressed.ids
    temperature = law.temperature if temperatures is None else temperatures
    return _Plan(law, suppressed, scratch_for(vocab, like.device), check, temperature, adjust)


def _log_law(block: Block, here: slice, plan: _Plan, ids: Tensor | None = None) -> Tensor:
    """Return the log of the sampled law for some rows of a block, [r, V], or of `ids` [r, 1]."""
    first, law = block.span.start + here.start, plan.law
    temperature = plan.temperature
    if isinstance(temperature, Tensor):
        temperature = temperature[first : first + here.stop - here.start]
    argmax, divisor = temperature == 0, positive(temperature, plan.check)
    tabled = law.reshapes or plan.adjust is not None
    if tabled:
        raw = block.chunk(here, plan.scratch)
        logits = reshaped_logits(raw, law, divisor, plan.adjust, first, plan.check)
    else:
        logits = block.chunk(here, plan.scratch).index_fill(1, plan.suppressed, -math.inf)
    peak = logits.amax(-1, keepdim=True)
    if plan.check:
        refuse_lawless(peak.squeeze(1), first)
    if argmax is True:
        return _at(_one_hot(logits), ids)
    inverse = inverse_temperature(divisor, logits.dtype)
    result = (logits - peak).mul_(inverse)
    if law.filters and not tabled:
        weight = result.exp()
        truncate(weight, logits, peak[:, 0], law, inverse)
        result.masked_fill_(weight == 0.0, -math.inf)
    total = result.logsumexp(-1, keepdim=True)
    result = _at(result, ids).sub_(total)
    if argmax is not False:
        result = torch.where(argmax[:, None], _at(_one_hot(logits), ids), result)
    return result


def _at(table: Tensor, ids: Tensor | None) -> Tensor:
    """Return a table [r, V], or its entries of `ids`, [r, 1]."""
    return table if ids is None else table.gather(1, ids)


def _one_hot(logits: Tensor) -> Tensor:
    """Return the logarithm of the law that is 1 at the largest logit, [r, V]."""
    token = logits.argmax(-1, keepdim=True)
    return torch.full_like(logits, -math.inf).scatter_(1, token, 0.0)

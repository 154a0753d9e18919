"""List the columns that a pass computes and those whose values it returns.

Without a cache these are all columns, and those that were asked for.  With one (`Pass.cache`), the
columns of its query, and those asked for whose state is among them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dlm_sampling.errors import named
from dlm_sampling.types import ColumnCache, Pass


class Queried(NamedTuple):
    """Hold the input of the columns that a pass computes, q of n rows."""

    ids: Tensor  # int64 [n, q]
    positions: Tensor  # int64 [n, q], or [1, q] where all rows are alike
    key_positions: Tensor  # int64 [n or 1, K], of the columns that may be attended to
    keys: Tensor | None  # bool [n, K], columns that may be attended to; None: all of them


def queried(inputs: Pass) -> Queried:
    """Return the tokens and positions of the columns to compute.

    Raises:
        ValueError: `inputs.cache` is of another kind.
    """
    positions = positions_of(inputs.attention, inputs.tokens)
    if inputs.cache is None:
        return Queried(inputs.tokens, positions, positions, inputs.attention)
    cache = column_cache(inputs.cache)
    width = cache.keys.shape[1]
    index = cache.query.clamp_max(inputs.tokens.shape[1] - 1)
    at = positions.expand_as(inputs.tokens).gather(1, index)
    return Queried(inputs.tokens.gather(1, index), at, positions[:, :width], cache.keys)


def column_cache(cache: object) -> ColumnCache:
    """Return a cache if it is one of columns.

    Raises:
        ValueError: it is of another kind.
    """
    if not isinstance(cache, ColumnCache):
        raise other_cache(cache, " or a types.ColumnCache")
    return cache


def refuse_cache(inputs: Pass) -> None:
    """Refuse keys and values of earlier passes, for networks that always run the whole canvas."""
    if inputs.cache is not None:
        raise other_cache(inputs.cache, "; this network keeps no keys and values")


def other_cache(cache: object, more: str) -> ValueError:
    """Make the error of a cache that a network does not take."""
    return ValueError(f"cache is {named(cache)}: must be None{more}.")


def positions_of(attention_mask: Tensor | None, input_ids: Tensor) -> Tensor:
    """Count each token's position among the real tokens of its row, int64 [B, L].

    position = max(cumsum(mask) - 1, 0), so left padding gets 0; without a mask the column index,
    [1, L].
    """
    if attention_mask is None:
        return torch.arange(input_ids.shape[1], device=input_ids.device).unsqueeze(0)
    return (attention_mask.long().cumsum(dim=1) - 1).clamp_min(0)


def at_columns(states: Tensor, columns: Tensor | None) -> Tensor:
    """Pick columns int64 [B, W] of states [B, L, ...], giving [B, W, ...]; None picks all."""
    if columns is None:
        return states
    return torch.take_along_dim(states, columns.unsqueeze(-1), dim=1)


def shift_right(
    states: Tensor, attention_mask: Tensor | None, columns: Tensor | None = None
) -> Tensor:
    """Align states that predict the next token: state i becomes that of the real token before i.

    [B, L, d] -> [B, L, d], or [B, W, d] of the columns int64 [B, W].  The first real token of a
    row, which nothing predicts, keeps its own state, so that a padded row equals the row alone.
    """
    if attention_mask is None:
        if columns is not None:
            return at_columns(states, (columns - 1).clamp_min(0))
        return torch.cat((states[:, :1], states[:, :-1]), dim=1)
    column = torch.arange(states.shape[1], device=states.device).expand(states.shape[:2])
    latest = torch.where(attention_mask, column, -1).cummax(dim=1).values
    before = torch.cat((torch.full_like(latest[:, :1], -1), latest[:, :-1]), dim=1)
    source = torch.where(before < 0, column, before)
    return at_columns(states, source if columns is None else source.gather(1, columns))


def sources(columns: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Return the columns whose states predict others (bool [B, L]) under `shift_right`."""
    real = torch.ones_like(columns) if attention_mask is None else attention_mask
    column = torch.arange(real.shape[1], device=real.device).expand(real.shape)
    source = shift_right(column.unsqueeze(-1), attention_mask).squeeze(-1)
    count = torch.zeros_like(columns, dtype=torch.int64)
    return count.scatter_add(1, source, (columns & real).long()) > 0


def wanted(states: Tensor, inputs: Pass, shift: int = 0) -> Tensor:
    """Return the states that predict the columns asked for, [n, W, d]; None asks for all.

    With a cache, a column whose state is not among those computed gets another one, and must not be
    read.

    Args:
        states: [n, L, d], or [n, q, d] of the cache's query.
        inputs: the pass; with a cache it names its columns.
        shift: see `Denoiser.shift`.
    """
    columns, cache = inputs.columns, inputs.cache
    if cache is None and shift:
        return shift_right(states, inputs.attention, columns)
    if columns is None:
        return states
    if cache is None:
        return torch.take_along_dim(states, columns.unsqueeze(-1), dim=1)
    if shift:
        every = torch.arange(inputs.tokens.shape[1], device=columns.device)
        column = every.expand_as(inputs.tokens).unsqueeze(-1)
        columns = shift_right(column, inputs.attention, columns).squeeze(-1)
    return at_columns(states, cache.place(columns))

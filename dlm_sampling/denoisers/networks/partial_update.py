"""Run the layers of a network where each computes only the columns whose values turned most.

dLLM-Cache, Liu et al. 2025, arXiv:2506.06295, section 3.3; the rule is `types.Partial`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dlm_sampling.types import ColumnCache


class LayerInput(NamedTuple):
    """Hold what a layer reads beside hidden states, for q query columns."""

    bias: Tensor | None  # [n or 1, 1, q, K]
    positions: Tensor  # int64 [n or 1, q]
    rotary: tuple[Tensor, Tensor]  # [n or 1, q, head_width] each

    def at(self, chosen: Tensor) -> LayerInput:
        """Return the input of some of the columns, int64 [n, k]."""
        n, index = len(chosen), chosen.unsqueeze(-1)
        bias = self.bias
        if bias is not None:
            bias = torch.take_along_dim(bias.expand(n, -1, -1, -1), index.unsqueeze(1), 2)
        cos, sin = (torch.take_along_dim(part.expand(n, -1, -1), index, 1) for part in self.rotary)
        positions = self.positions.expand(n, -1).gather(1, chosen)
        return LayerInput(bias, positions, (cos, sin))


Call = Callable[[Any, Tensor, LayerInput, ColumnCache], Tensor]
"""Runs a layer on hidden states [n, q, width]."""


@dataclass(frozen=True)
class _WithValues(ColumnCache):
    """Put fresh keys over the stored ones; the values are given."""

    values: Tensor | None = None  # [n, heads, K, head_width]

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int
    ) -> tuple[Tensor, Tensor]:
        """Return keys, with the fresh ones of the query, and the given values."""
        assert self.values is not None
        return self.put(self.layers[layer_idx].keys, key_states), self.values


def run_layer(
    call: Call, layer: Any, number: int, hidden: Tensor, given: LayerInput, columns: ColumnCache
) -> Tensor:
    """Run one layer and store what it adds, or add what is stored where it is not computed.

    Args:
        call: runs the layer.
        layer: a decoder layer of transformers.
        number: its number, from 0.
        hidden: [n, q, width], states of the query.
        given: the bias, positions and rotary table of the query.
        columns: the store, with `keeps_added`.
    """
    if number == 0:
        return call(layer, hidden, given, columns)
    if columns.partial is None:
        out = call(layer, hidden, given, columns)
        columns.add(out - hidden, number)
        return out
    stored, (always, counts, most) = columns.layers[number], columns.partial
    rows = torch.arange(len(hidden), device=hidden.device) if columns.rows is None else columns.rows
    place = (rows.unsqueeze(1), slice(None), columns.query)  # [n, q, heads, width]
    old = stored.values[place]
    projected = layer.self_attn.v_proj(layer.input_layernorm(hidden))
    fresh = projected.unflatten(-1, old.shape[2:])
    alike = torch.cosine_similarity(fresh.flatten(2), old.flatten(2), 2).float()
    filler = columns.query == columns.size[1]
    rank = alike.masked_fill(always, -2.0).masked_fill(filler, 2.0)
    chosen = rank.argsort(dim=1, stable=True)[:, :most]
    counted = torch.arange(most, device=hidden.device) < counts.unsqueeze(1)
    query = torch.where(counted, columns.query.gather(1, chosen), columns.size[1])
    kept = None if columns.kept is None else columns.kept.gather(1, chosen)
    inner = _WithValues(
        columns.size, columns.layers, query, columns.keys, columns.rows, kept,
        values=columns.put(stored.values, fresh.transpose(1, 2)),
    )  # fmt: skip
    some = torch.take_along_dim(hidden, chosen.unsqueeze(-1), 1)
    new = call(layer, some, given.at(chosen), inner) - some
    assert stored.added is not None
    added = stored.added[place].squeeze(2)
    new = torch.where(counted.unsqueeze(-1), new, torch.take_along_dim(added, chosen[..., None], 1))
    added = added.scatter(1, chosen.unsqueeze(-1).expand_as(new), new)
    columns.add(added, number)
    return hidden + added

"""Hold the keys and values that a forward pass reads and writes beside its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Partial(NamedTuple):
    """Say which columns of a query all layers compute, and of how many others; the first does all.

    A layer behind the first computes, of the columns that are not `always`, those whose values have
    turned most from the stored ones, and adds to the others what it added when it last did.
    """

    always: Tensor  # bool [n, q]
    counts: Tensor  # int64 [n], columns that a layer computes, those of `always` included
    most: int  # the largest of them, at least 1


class LayerKeys(NamedTuple):
    """Hold the keys and values of one layer for A rows of L columns.

    Column L is a place for query columns that only fill a row; nothing reads it.
    """

    keys: Tensor  # [A, heads, L + 1, head_width]
    values: Tensor  # [A, heads, L + 1, head_width]
    added: Tensor | None = None  # [A, 1, L + 1, width], what the layer added; see `Partial`


@dataclass(frozen=True)
class ColumnCache:
    """Let a pass compute some columns and attend to stored ones: forward(Q, K, Wr).

    The network computes hidden states at the columns Q of n canvases only.  In each layer it hands
    the fresh keys and values of Q to `update`, and attends to what that returns, with its own rule
    of visibility and `keys` on top.  The tensors of the store are written in place.

    Fields:
        size: (A, L), rows and columns of the store.
        layers: the store, a layer each; a layer is made when its first keys arrive.
        query: int64 [n, q], the columns Q in rising order; L fills rows that have fewer.
        keys: bool [n, K], whether a column may be attended to; columns from K on may not.
        rows: int64 [n], rows of the store, which may repeat; None: all A in order.
        kept: bool [n, q], columns of Q that are stored, Wr; None: all, or nobody reads the others.
        shared: int64 [2, m], where a canvas stands for several rows of the store: the rows that are
            written, and the canvas of each; None: the rows are `rows`.
        keeps_added: whether layers behind the first store what they add, for later partial passes.
        partial: the columns that these layers compute, or None for all of the query.
    """

    size: tuple[int, int]
    layers: list[LayerKeys]
    query: Tensor
    keys: Tensor
    rows: Tensor | None = None
    kept: Tensor | None = None
    shared: Tensor | None = None
    keeps_added: bool = False
    partial: Partial | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int
    ) -> tuple[Tensor, Tensor]:
        """Put fresh keys and values over the stored ones, and return those of the columns below K.

        The names of the arguments are those of transformers' caches.

        Args:
            key_states: [n, heads, q, head_width], rotated, of the columns `query`.
            value_states: [n, heads, q, head_width].
            layer_idx: number of the layer, from 0; layers come in order.

        Returns:
            Keys and values [n, heads, K, head_width].
        """
        if layer_idx == len(self.layers):
            self.layers.append(LayerKeys(self._empty(key_states), self._empty(value_states)))
        layer = self.layers[layer_idx]
        return self.put(layer.keys, key_states), self.put(layer.values, value_states)

    def add(self, added: Tensor, layer_idx: int) -> None:
        """Store what a layer added to the states of the query, [n, q, width]."""
        fresh, layer = added.unsqueeze(1), self.layers[layer_idx]
        if layer.added is None:
            layer = self.layers[layer_idx] = layer._replace(added=self._empty(fresh))
        assert layer.added is not None
        self.put(layer.added, fresh)

    def read(self, layer_idx: int, columns: slice) -> tuple[Tensor, Tensor]:
        """Return stored keys and values of some columns, of the canvases of the pass."""
        layer, rows = self.layers[layer_idx], self.rows
        keys, values = layer.keys[:, :, columns], layer.values[:, :, columns]
        return (keys, values) if rows is None else (keys[rows], values[rows])

    def write(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, columns: slice
    ) -> None:
        """Store keys and values of some columns, [n, heads, m, head_width]; see `update`."""
        if layer_idx == len(self.layers):
            self.layers.append(LayerKeys(self._empty(key_states), self._empty(value_states)))
        layer = self.layers[layer_idx]
        for stored, new in ((layer.keys, key_states), (layer.values, value_states)):
            if self.rows is None:
                stored[:, :, columns] = new
            else:
                stored[self.rows, :, columns] = new

    def _empty(self, like: Tensor) -> Tensor:
        """Return room for all rows and columns, with the heads, type and device of `like`."""
        rows, columns = self.size
        return like.new_zeros(rows, like.shape[1], columns + 1, like.shape[3])

    def put(self, stored: Tensor, fresh: Tensor) -> Tensor:
        """Write fresh columns [n, heads, q, head_width]; return all below K, [n, heads, K, *]."""
        width, new = self.keys.shape[1], fresh.transpose(1, 2)
        every = torch.arange(len(fresh), device=fresh.device).unsqueeze(1)
        if self.rows is None and self.kept is None:
            stored[every, :, self.query] = new
            return stored[:, :, :width]
        seen = stored.clone() if self.rows is None else stored.index_select(0, self.rows)
        seen[every, :, self.query] = new
        to = self.query if self.kept is None else torch.where(self.kept, self.query, self.size[1])
        if self.shared is None:
            stored[every if self.rows is None else self.rows.unsqueeze(1), :, to] = new
        else:
            rows, source = self.shared
            stored[rows.unsqueeze(1), :, to[source]] = new[source]
        return seen[:, :, :width]

    def place(self, columns: Tensor) -> Tensor:
        """Return the place in the query of each column, int64 like columns [n, W]; 0 if absent."""
        table = self.query.new_zeros(len(self.query), self.size[1] + 1)
        order = torch.arange(self.query.shape[1], device=self.query.device)
        return table.scatter(1, self.query, order.expand_as(self.query)).gather(1, columns)

"""Hold the keys and values that a forward pass reads and writes beside its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class LayerKeys(NamedTuple):
    """Hold the keys and values of one layer for A rows of L columns.

    Column L is a place for query columns that only fill a row; nothing reads it.
    """

    keys: Tensor  # [A, heads, L + 1, head_width]
    values: Tensor  # [A, heads, L + 1, head_width]


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
    """

    size: tuple[int, int]
    layers: list[LayerKeys]
    query: Tensor
    keys: Tensor
    rows: Tensor | None = None
    kept: Tensor | None = None
    shared: Tensor | None = None

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
        return self._put(layer.keys, key_states), self._put(layer.values, value_states)

    def read(self, layer_idx: int, columns: slice) -> LayerKeys:
        """Return stored keys and values of some columns, of the canvases of the pass."""
        parts = [part[:, :, columns] for part in self.layers[layer_idx]]
        return LayerKeys(*(p if self.rows is None else p[self.rows] for p in parts))

    def write(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, columns: slice
    ) -> None:
        """Store keys and values of some columns, [n, heads, m, head_width]; see `update`."""
        if layer_idx == len(self.layers):
            self.layers.append(LayerKeys(self._empty(key_states), self._empty(value_states)))
        for stored, new in zip(self.layers[layer_idx], (key_states, value_states), strict=True):
            if self.rows is None:
                stored[:, :, columns] = new
            else:
                stored[self.rows, :, columns] = new

    def _empty(self, like: Tensor) -> Tensor:
        """Return room for all rows and columns, with the heads, type and device of `like`."""
        rows, columns = self.size
        return like.new_zeros(rows, like.shape[1], columns + 1, like.shape[3])

    def _put(self, stored: Tensor, fresh: Tensor) -> Tensor:
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

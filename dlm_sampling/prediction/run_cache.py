"""Hold the keys and values of a run, and what a cached pass sees of its rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dlm_sampling.caches import AnyPolicy, View
from dlm_sampling.ops import Rng
from dlm_sampling.types import LayerKeys


@dataclass(frozen=True)
class RunCache:
    """Hold the keys and values of the active rows of a run, a tree of row tensors.

    Its tensors are written in place by the passes of the rows' newest state; `copy_rows` makes a
    state that can go another way.

    Fields:
        policy: which columns a pass computes.
        layers: keys and values of the conditional pass, and of the unconditional one if guided; ()
            before the first pass.
        held: bool [A, L], columns with stored keys and values.
        opened: bool [A], rows without a pass in their current block.
        state: the policy's own state.
        drift: float64 [A], of values since the last refresh, where the policy reads it.
    """

    policy: AnyPolicy
    layers: tuple[tuple[LayerKeys, ...], ...]
    held: Tensor
    opened: Tensor
    state: Any
    drift: Tensor

    @classmethod
    def empty(
        cls,
        policy: AnyPolicy,
        window: Tensor,
        unknown: Tensor,
        real: Tensor,
        rng: Rng | None = None,
        editable: Tensor | None = None,
    ) -> RunCache:
        """Return the cache before the first pass; the tables of columns are bool [A, L]."""
        held = torch.zeros_like(window)
        opened = torch.ones_like(window[:, 0])
        drift = torch.zeros_like(opened, dtype=torch.float64)
        state = policy.init(View(unknown, window, real, opened, held, rng, drift, editable))
        return cls(policy, (), held, opened, state, drift)

    def enter(self, rows: Tensor) -> RunCache:
        """Note that rows (bool [A]) enter a new block."""
        return replace(self, opened=self.opened | rows)

    def forget(self, columns: Tensor) -> RunCache:
        """Drop keys and values of columns (bool [A, L]), which the next pass computes anew."""
        return replace(self, held=self.held & ~columns)

    @property
    def nbytes(self) -> int:
        """Return the memory of the keys and values, in bytes."""
        return sum(
            t.nbytes for layers in self.layers for layer in layers for t in layer if t is not None
        )


class Shown(NamedTuple):
    """Hold what the passes of a step see of the active rows of the run."""

    tokens: Tensor  # int64 [A, L], the run's canvas; others are provisional
    unknown: Tensor  # bool [A, L]
    window: Tensor  # bool [A, L], columns of the current block
    real: Tensor  # bool [A, L], False at padding
    rng: Rng | None = None  # random numbers of the step
    editable: Tensor | None = None  # bool [A, L], positions that the run may write

    def view(self, cache: RunCache) -> View:
        """Return what the policy sees."""
        return View(
            self.unknown, self.window, self.real, cache.opened, cache.held, self.rng, cache.drift,
            self.editable,
        )  # fmt: skip

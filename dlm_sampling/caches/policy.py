"""Define a cache policy: the rule that says which columns a pass computes, sees and stores.

Every KV cache of a diffusion model is forward(Q, K, Wr): compute hidden states at the columns Q,
attend to the columns K, keep the fresh keys and values of Wr (a part of Q).  All three are masks
bool [n, L] over the canvas.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from dlm_sampling.errors import check_fields
from dlm_sampling.ops import Rng

S = TypeVar("S")


class View(NamedTuple):
    """Hold what a policy sees of the n rows of a pass, before it."""

    unknown: Tensor  # bool [n, L], positions of the run's canvas still to be written, in any block
    window: Tensor  # bool [n, L], columns of the current block, with those that are fixed
    real: Tensor  # bool [n, L], False at padding
    opened: Tensor  # bool [n], True in the first pass of a block
    held: Tensor  # bool [n, L], columns with stored keys and values
    rng: Rng | None = None  # of the n rows; a policy takes numbers of its own stream
    drift: Tensor | None = None  # float64 [n], see `measures`
    editable: Tensor | None = None  # bool [n, L], positions that the run may write, in any block


class Plan(NamedTuple):
    """Hold the columns of a pass over n rows."""

    query: Tensor  # bool [n, L], Q: columns whose hidden states are computed
    keys: Tensor  # bool [n, L], K: columns attended to; what is not held joins Q, and Wr
    write: Tensor  # bool [n, L], Wr, in Q: columns whose fresh keys and values are kept
    refresh: Tensor  # bool [n], rows that compute more than usual, in a pass of their own
    partial: Tensor | None = None  # bool [n, L], in Q and held: see `types.Partial`
    fresh: Tensor | None = None  # int64 [n], how many of `partial` each layer computes


class CachePolicy(Protocol[S]):
    """Say what each pass computes; implementations are frozen dataclasses of numbers.

    The state is a tree of row tensors, as that of a sampler.
    """

    @property
    def name(self) -> str:
        """Return the name under which `generate(cache=...)` knows it."""
        ...

    @property
    def exact(self) -> bool:
        """Return whether logits are those of a pass over all columns, up to rounding."""
        ...

    @property
    def freezes(self) -> bool:
        """Return whether a written token keeps its keys and values, even if it is written again."""
        ...

    @property
    def separate(self) -> bool:
        """Return whether refreshes are passes of their own, whose logits nobody reads."""
        ...

    @property
    def measures(self) -> bool:
        """Return whether it reads the drift of values since the last refresh of a row.

        That is the sum over passes of the mean of 1 - cos(fresh, stored) over the values that the
        last layer has of the masks of the pass.
        """
        ...

    @property
    def updates_layers(self) -> bool:
        """Return whether plans are partial; the layers of the network then store what they add."""
        ...

    def init(self, view: View) -> S:
        """Return the state before the first pass."""
        ...

    def plan(self, state: S, view: View) -> tuple[S, Plan]:
        """Return the columns of the next pass, and the state after it."""
        ...


AnyPolicy = CachePolicy[Any]


class PolicyBase(ABC):
    """Give every member of `CachePolicy` but `plan` its default."""

    name: str = ""
    exact: bool = False
    freezes: bool = False
    measures: bool = False
    updates_layers: bool = False

    def __post_init__(self) -> None:
        """Refuse fields of another type than their annotation; a subclass then checks ranges."""
        check_fields(self)

    @property
    def separate(self) -> bool:
        """Return False: a refresh serves the step that needs it."""
        return False

    def init(self, view: View) -> Any:
        """Return None: no state."""
        return

    @abstractmethod
    def plan(self, state: Any, view: View) -> tuple[Any, Plan]:
        """Return the columns of the next pass, and the state after it.  No default."""


class RefreshPolicy(PolicyBase):
    """Compute all columns in some passes (a refresh), and columns near the block in the others.

    The keys are always those of all columns: K covers the canvas.

    A subclass says when a refresh is due and which columns are near.
    """

    def due(self, state: Any, view: View) -> Tensor:
        """Return the rows whose next pass computes all columns, bool [n]; default: a new block."""
        return view.opened

    @abstractmethod
    def near(self, state: Any, view: View) -> Tensor:
        """Return the columns that other passes compute, bool [n, L]."""

    def after(self, state: Any, view: View, due: Tensor) -> Any:
        """Return the state after the pass; default: it stays."""
        return state

    def plan(self, state: Any, view: View) -> tuple[Any, Plan]:
        """Return the columns of the next pass, and the state after it."""
        due = self.due(state, view)
        query = view.real & (self.near(state, view) | due.unsqueeze(1))
        return self.after(state, view, due), Plan(query, view.real, query, due)

    def stale(self, state: Any, view: View) -> Plan:
        """Return the columns of the next pass if no refresh were due; nothing is stored."""
        near = view.real & self.near(state, view)
        none = torch.zeros_like(near)
        return Plan(near, view.real, none, none[:, 0])


def completed(plan: Plan, view: View) -> Plan:
    """Add the columns of K that were never computed to Q, and the block where Q is empty.

    A column that was hidden so far has no keys, and a network takes no pass without a column.
    """
    idle = ~plan.query.any(1, keepdim=True) & view.window & view.real
    new = plan.keys & ~(plan.query | view.held) | idle
    return plan._replace(query=plan.query | new, write=plan.write | new)


def at_least(name: str, value: int | None, least: int) -> None:
    """Check that a field is at least `least`, or None.

    Raises:
        ValueError: it is smaller.
    """
    if value is not None and value < least:
        raise ValueError(f"{name}={value}: must be at least {least}.")

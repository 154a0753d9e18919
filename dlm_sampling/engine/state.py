"""Hold all tensors of the active rows of a run as one immutable value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dlm_sampling import ops
from dlm_sampling.prediction.carry import Carry
from dlm_sampling.prediction.run_cache import RunCache
from dlm_sampling.types import Canvas, Step
from dlm_sampling.types.rows import with_parts


class BlockWindow(NamedTuple):
    """Hold the current block of each active row."""

    start: Tensor  # int64 [A], first column
    stop: Tensor  # int64 [A], one past the last column
    steps: Tensor  # int64 [A], planned steps
    limit: Tensor  # int64 [A], maximum loop steps of the block
    editable: Tensor  # bool [A, L], positions of the block that may be written
    width: Tensor  # float64 [A], how many these are, at least 1


@dataclass(frozen=True)
class RunState:
    """Hold the state of the A active rows of a run; every tensor has leading dimension A.

    `types.rows` selects, merges and copies all fields without naming them, so that a new field
    follows its rows from the day it is added.

    Fields:
        rows: int64 [A], index of each row in the batch; particles repeat it.
        tokens: int64 [A, L], the canvas.
        unknown: bool [A, L], positions still to be written.
        logprob: [A, L], log-probability of each token when it was last written.
        editable: bool [A, L], positions that the run may write, in any block.
        attention: bool [A, L], False at padding.
        may_stop: bool [A], whether a stop token ends the row.
        block: int64 [A], index of the row's block; in a pipeline the first one under way.
        step: int64 [A], steps taken in this block.
        window: columns and steps of the row's block.
        rng: random numbers of the step.
        sampler: the sampler's own state, a tree of row tensors.
        carry: latent states of the network, one per kind of pass.
        cache: keys and values of earlier passes, or None.
        last: int64 [A], index of the last block under way in a pipeline; None without one.
        lineage: int64 [A], the row that each one was before the latest resampling, or None.
    """

    rows: Tensor
    tokens: Tensor
    unknown: Tensor
    logprob: Tensor
    editable: Tensor
    attention: Tensor
    may_stop: Tensor
    block: Tensor
    step: Tensor
    window: BlockWindow
    rng: ops.Rng
    sampler: Any
    carry: tuple[Carry, ...]
    cache: RunCache | None = None
    last: Tensor | None = None
    lineage: Tensor | None = None

    def __len__(self) -> int:
        """Return the number of active rows, A."""
        return self.rows.shape[0]


@dataclass(frozen=True)
class Moved:
    """Hold the result of one sampler step.

    Fields:
        state: the state after the step; its block and step counters are not advanced yet.
        canvas: the canvas that the sampler received.
        step: the `Step` that the sampler returned.
        over: bool [A], rows whose block this step ended.
    """

    state: RunState
    canvas: Canvas
    step: Step
    over: Tensor


def apply(state: RunState, canvas: Canvas, step: Step, **others: Any) -> RunState:
    """Return the state with the step's changes inside the block; changes elsewhere are dropped.

    `others` are further fields that the step gives a new value.
    """
    tokens = torch.where(canvas.editable, step.tokens, state.tokens)
    unknown = torch.where(canvas.editable, step.unknown, state.unknown)
    # Of two bool tensors, a > b is a without b.
    changed = (tokens != state.tokens) | (state.unknown > unknown)
    logprob = step.logprob
    if logprob.dtype is not state.logprob.dtype:
        logprob = logprob.to(state.logprob.dtype)
    logprob = torch.where(changed, logprob, state.logprob)
    return with_parts(state, tokens=tokens, unknown=unknown, logprob=logprob, **others)

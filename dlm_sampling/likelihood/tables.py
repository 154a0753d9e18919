"""Hold the steps and the changes of a run as tables: from its events, and back to them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from dlm_sampling.engine.trajectory import StepEvent
from dlm_sampling.types import Drawn
from dlm_sampling.types.values import ints


class RolloutRows(NamedTuple):
    """Hold the tensors of a rollout with one entry per row."""

    tokens: Tensor  # int64 [B, L], the canvas as the last step left it
    initial: Tensor  # int64 [B, L], the canvas before the first step
    attention_mask: Tensor  # bool [B, L], False at padding
    editable: Tensor  # bool [B, L], positions that the run could write
    unknown: Tensor  # bool [B, L], those without a token before the first step; a draft has some
    nfe: Tensor  # int64 [B], forward passes of the run

    def padded(self, width: int) -> RolloutRows:
        """Return the rows with padding on the left, up to a width."""
        missing = (width - self.tokens.shape[1], 0)
        return self._replace(
            tokens=F.pad(self.tokens, missing),
            initial=F.pad(self.initial, missing),
            attention_mask=F.pad(self.attention_mask, missing),
            editable=F.pad(self.editable, missing),
            unknown=F.pad(self.unknown, missing),
        )


class Steps(NamedTuple):
    """Hold the steps of all rows, in order; M entries."""

    row: Tensor  # int32 [M]
    iteration: Tensor  # int32 [M], number of the loop step
    block: Tensor  # int32 [M]
    last: Tensor  # int32 [M], last block under way, behind `block` in a pipeline only
    step: Tensor  # int32 [M], step within the block
    time: Tensor  # float64 [M], time argument of the latest pass; NaN if the model takes none
    logprob: Tensor  # [M], sum over all tokens that the step drew
    counted: Tensor  # bool [M], whether it drew a token


class Writes(NamedTuple):
    """Hold every change of a position, in order; N entries."""

    row: Tensor  # int32 [N]
    iteration: Tensor  # int32 [N], number of the loop step
    position: Tensor  # int32 [N], column
    token: Tensor  # int32 [N], the token after the step
    unknown: Tensor  # bool [N], whether the position is still to be written after the step
    how: Tensor  # int8 [N], a `Drawn`
    logprob: Tensor  # [N], log-probability of the token under the law it was drawn from


class Recorder:
    """Collect the steps of a run from its events, without keeping their canvases.

    An instance is a callback of `sample` and `generate`.

    Args:
        editable: bool [B, L], positions that the run may write.
        masked: whether the noise of the run is masks.
        unknown: bool [B, L], positions that are still to be written; None: all that may be, or
            those that hold `mask_token_id`.
        mask_token_id: the mask, where rows may begin with a draft and `unknown` is not known.
    """

    def __init__(
        self,
        editable: Tensor,
        *,
        masked: bool,
        unknown: Tensor | None = None,
        mask_token_id: int | None = None,
    ) -> None:
        self._editable, self._masked, self._mask = editable, masked, mask_token_id
        self._unknown = (editable if unknown is None else unknown).clone()
        self._begun = self._unknown.clone()
        self._first = torch.zeros(editable.shape).long()
        self._seen = torch.zeros(len(editable), dtype=torch.bool)
        self._steps: list[Steps] = []
        self._writes: list[Writes] = []

    def __call__(self, event: StepEvent) -> None:
        """Note one step."""
        rows = event.rows
        self._to(rows.device)
        fresh = ~self._seen[rows]
        self._first[rows[fresh]] = event.before[fresh]
        self._seen[rows] = True
        editable = self._editable[rows]
        if self._mask is not None:
            begun = rows[fresh]
            self._begun[begun] = editable[fresh] & (event.before[fresh] == self._mask)
            self._unknown[begun] = self._begun[begun]
        changed = (event.written | (event.unknown != self._unknown[rows])) & editable
        self._unknown[rows] = event.unknown
        drawn, new = event.logprob.masked_fill(~editable, 0.0), editable
        if self._masked:  # what is still a mask was not drawn
            drawn = drawn.masked_fill(event.unknown, 0.0)
            new = (event.written & editable & ~event.unknown) | (drawn != 0)
        number = torch.full_like(rows, event.iteration, dtype=torch.int32)
        nowhere = torch.full_like(rows, torch.nan, dtype=torch.float64)
        self._steps.append(
            Steps(
                row=rows.int(),
                iteration=number,
                block=event.block.int(),
                last=(event.block if event.last is None else event.last).int(),
                step=event.step.int(),
                time=nowhere if event.time is None else event.time,
                logprob=drawn.sum(1),
                counted=new.any(1),
            )
        )
        row, column = changed.nonzero(as_tuple=True)
        how = event.drawn
        if how is None:
            how = torch.where(event.written, int(Drawn.FROM_LAW), int(Drawn.NOT)).to(torch.int8)
        self._writes.append(
            Writes(
                row=rows[row].int(),
                iteration=number[row],
                position=column.int(),
                token=event.tokens[changed].int(),
                unknown=event.unknown[changed],
                how=how[changed],
                logprob=event.logprob[changed],
            )
        )

    def _to(self, device: torch.device) -> None:
        if self._unknown.device != device:
            self._editable, self._unknown = self._editable.to(device), self._unknown.to(device)
            self._begun = self._begun.to(device)
            self._first, self._seen = self._first.to(device), self._seen.to(device)

    @property
    def unknown(self) -> Tensor:
        """Return the positions that no step has written so far, bool [B, L]."""
        return self._unknown

    @property
    def begun(self) -> Tensor:
        """Return the positions that held no token before the first step, bool [B, L]."""
        return self._begun

    def initial(self, tokens: Tensor) -> Tensor:
        """Return the canvas before the first step, int64 [B, L]; rows without one: `tokens`."""
        seen = self._seen.to(tokens.device).unsqueeze(1)
        return torch.where(seen, self._first.to(tokens.device), tokens)

    def tables(self) -> tuple[Steps, Writes]:
        """Return all steps and changes so far."""
        none = self._seen[:0].int()
        steps = [Steps(none, none, none, none, none, none.double(), none.float(), none.bool())]
        writes = [Writes(none, none, none, none, none.bool(), none.to(torch.int8), none.float())]
        return (
            Steps(*in_order([torch.cat(c) for c in zip(*steps, *self._steps, strict=True)])),
            Writes(*in_order([torch.cat(c) for c in zip(*writes, *self._writes, strict=True)])),
        )


def rebuilt_events(
    initial: Tensor, unknown: Tensor, steps: Steps, writes: Writes, stops: Tensor | None
) -> Iterator[StepEvent]:
    """Yield the steps in order; one canvas per row exists at a time.

    NFE, confidence and entropy, which only a viewer reads, are left out.

    Args:
        initial: int64 [B, L], the canvas before the first step.
        unknown: bool [B, L], positions without a token before the first step.
        steps: the steps of all rows.
        writes: the changes of all rows.
        stops: int64 [B, K], first column hidden in every block; None if none was hidden.
    """
    canvas, unknown = initial.clone(), unknown.clone()
    place = torch.zeros_like(initial[:, 0])
    changes = segments(writes.iteration)
    for number, here in segments(steps.iteration).items():
        rows, block = steps.row[here].long(), steps.block[here].long()
        last = steps.last[here].long()
        before, were = canvas[rows], unknown[rows]
        at = changes.get(number, slice(0, 0))
        row, column = writes.row[at].long(), writes.position[at].long()
        canvas[row, column] = writes.token[at].long()
        unknown[row, column] = writes.unknown[at]
        place[rows] = torch.arange(len(rows), device=rows.device)
        inside = (place[row], column)
        tokens, left = canvas[rows], unknown[rows]
        logprob = writes.logprob.new_zeros(before.shape).index_put(inside, writes.logprob[at])
        drawn = writes.how.new_zeros(before.shape).index_put(inside, writes.how[at])
        zero = torch.zeros_like(rows)
        yield StepEvent(
            iteration=number,
            rows=rows,
            before=before,
            tokens=tokens,
            unknown=left,
            written=(tokens != before) | (were & ~left),
            block=block,
            step=steps.step[here].long(),
            nfe=zero,
            forwarded=zero.bool(),
            logprob=logprob,
            log_confidence=None,
            entropy=None,
            final=zero.bool(),
            horizon=None if stops is None else stops[rows, last],
            time=steps.time[here],
            drawn=drawn,
            last=last,
        )


def in_order(columns: list[Tensor]) -> list[Tensor]:
    """Sort the columns of a table by iteration, its second one, and by row, its first one.

    Parts of a batch ran in turn, and those of similar length together.
    """
    by_row = columns[0].argsort(stable=True)
    order = by_row[columns[1][by_row].argsort(stable=True)]
    return [column[order] for column in columns]


def last_change(
    like: Tensor, writes: Writes, values: Tensor, *, keep: Tensor | float | bool
) -> Tensor:
    """Return the value of each position's last change, [B, L]; `keep` where there was none."""
    row, column = writes.row.long(), writes.position.long()
    order = torch.arange(len(row), device=like.device)
    number = torch.full(like.shape, -1, dtype=torch.int64, device=like.device).flatten()
    number = number.scatter_reduce(0, row * like.shape[1] + column, order, "amax")
    last = number.view(like.shape)
    found = torch.cat([values, values.new_zeros(1)])[last]
    return torch.where(last < 0, torch.as_tensor(keep, dtype=values.dtype).to(like.device), found)


def segments(iteration: Tensor) -> dict[int, slice]:
    """Return the entries of each iteration, of a table in order."""
    first = torch.ones_like(iteration, dtype=torch.bool)
    first[1:] = iteration[1:] != iteration[:-1]
    begins = ints(first.nonzero().squeeze(1))
    numbers = ints(iteration[first])
    ends = [*begins[1:], len(iteration)][: len(begins)]
    return {n: slice(i, j) for n, i, j in zip(numbers, begins, ends, strict=True)}


def rank_in_row(row: Tensor, rows: int) -> Tensor:
    """Return how many earlier entries each entry's row has, int64 like row."""
    order = row.argsort(stable=True)
    count = torch.bincount(row, minlength=rows)
    begin = count.cumsum(0) - count
    rank = torch.arange(len(row), device=row.device) - begin[row[order]]
    return torch.empty_like(rank).scatter(0, order, rank)


def steps_within(steps: Steps, window: tuple[int, int], rows: int) -> dict[int, Tensor]:
    """Return, for each iteration, which of its rows take a step of the window, bool [A].

    Steps of a row are counted from 0, those that drew nothing left out.
    """
    row, counted = steps.row.long(), steps.counted
    number = torch.full_like(row, -1)
    number[counted] = rank_in_row(row[counted], rows)
    inside = (number >= window[0]) & (number < window[1])
    return {at: inside[here] for at, here in segments(steps.iteration).items()}


def rows_of(table: Steps | Writes, rows: Tensor, count: int) -> list[Tensor]:
    """Return the entries of some rows (int64 [n]) of a table, renumbered, in order of iteration."""
    row = table.row.long()
    by_row = row.argsort(stable=True)
    size = torch.bincount(row, minlength=count)
    begin = size.cumsum(0) - size
    wanted = size[rows]
    new = torch.arange(len(rows), device=row.device).repeat_interleave(wanted)
    offset = torch.arange(len(new), device=row.device) - (wanted.cumsum(0) - wanted)[new]
    entries = by_row[begin[rows][new] + offset]
    order = table.iteration[entries].argsort(stable=True)
    return [new[order].int(), *(column[entries[order]] for column in table[1:])]

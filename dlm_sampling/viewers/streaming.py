"""Feed transformers' streamers and a progress bar from step events.

A streamer takes one sequence.  The rows of a batch are streamed one after another, each closed by
`end()`, so that the stock streamers work for any batch size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from dlm_sampling.engine.request import Canvases
from dlm_sampling.engine.trajectory import StepEvent
from dlm_sampling.types.values import int_rows

Sendable = Callable[[Tensor, int, bool], int]
"""Gives the columns from the left that a streamer may get, of a row's canvas int64 [L], the columns
known from the left, and whether the row is done."""


@runtime_checkable
class Streamer(Protocol):
    """Define the interface of a transformers streamer; see also `DraftStreamer`."""

    def put(self, value: Tensor) -> None:
        """Receive tokens that will not change any more, int64 [n] or [1, n]."""
        ...

    def end(self) -> None:
        """Close the sequence."""
        ...


@runtime_checkable
class DraftStreamer(Protocol):
    """Define the further method of a streamer that shows tokens which may still change."""

    def put_draft(self, value: Tensor) -> None:
        """Receive the rest of the canvas after a step, int64 [n]."""
        ...


class StreamerFeed:
    """Turn step events into calls of a streamer.

    Tokens are sent from the left as soon as they are known; if the sampler revises, once their row
    is done.  The rest of the canvas goes to `put_draft` if the streamer has that method.  Nothing
    is sent before the first step, so that a call that fails at once leaves the streamer untouched.

    Args:
        streamer: a transformers streamer.
        canvases: the rows before the first step.
        revises: whether written tokens may still change.
        sendable: per row, gives the known tokens that belong to its text.
    """

    def __init__(
        self, streamer: Streamer, canvases: Canvases, revises: bool, sendable: Sequence[Sendable]
    ) -> None:
        tokens, editable, attention = canvases.tokens, canvases.editable, canvases.attention
        self.streamer, self.revises, self.sendable = streamer, revises, sendable
        self.tokens, self.unknown = tokens.clone().cpu(), editable.clone().cpu()
        self.done = ~editable.any(1).cpu()
        self.origin = attention.long().argmax(1).cpu()
        self.first = torch.where(editable.any(1), editable.long().argmax(1), tokens.shape[1]).cpu()
        self.row = -1
        self.sent = 0

    def __call__(self, event: StepEvent) -> None:
        """Store an event; send tokens of the current row, then of finished rows after it."""
        rows = event.rows.cpu()
        self.tokens[rows], self.unknown[rows] = event.tokens.cpu(), event.unknown.cpu()
        self.done[rows] = event.final.cpu()
        self._send()

    def close(self) -> None:
        """Send rows that had nothing to write, and so had no event."""
        self._send()

    def _send(self) -> None:
        if self.row < 0:
            self._open_next()
        while self.row < len(self.tokens):
            self._confirm()
            if not self.done[self.row]:
                self._draft()
                return
            self.streamer.end()
            self._open_next()

    def _open_next(self) -> None:
        self.row += 1
        if self.row < len(self.tokens):
            self.sent = int(self.first[self.row])
            self.streamer.put(
                self.tokens[self.row, int(self.origin[self.row]) : self.sent].unsqueeze(0)
            )

    def _confirm(self) -> None:
        """Send the known tokens of the current row that were not sent yet."""
        done = bool(self.done[self.row])
        if self.revises and not done:
            return
        unknown = self.unknown[self.row]
        known = int(unknown.long().argmax()) if bool(unknown.any()) else len(unknown)
        end = self.sendable[self.row](self.tokens[self.row], known, done)
        for token in self.tokens[self.row, self.sent : end]:
            self.streamer.put(token.unsqueeze(0))
        self.sent = max(self.sent, end)

    def _draft(self) -> None:
        if isinstance(self.streamer, DraftStreamer):
            self.streamer.put_draft(self.tokens[self.row, self.sent :])


class ProgressFeed:
    """Show a tqdm bar over the positions to write.

    Args:
        total: number of positions to write.
        show: True shows the bar, False hides it; None shows it on a terminal and for long work.
    """

    def __init__(self, total: int, show: bool | None) -> None:
        from tqdm import tqdm

        disable = None if show is None else not show
        self.bar: Any = tqdm(
            total=total, unit="tok", disable=disable, delay=0.0 if show else 1.0, leave=False
        )
        self.left: dict[int, int] = {}
        self.shown: dict[int, int] = {}
        self.total = total

    @property
    def visible(self) -> bool:
        """Return whether the bar is shown."""
        return not self.bar.disable

    def __call__(self, event: StepEvent) -> None:
        """Advance by the number of positions that became known; remasking moves the bar back."""
        left = torch.where(event.final, 0, event.unknown.sum(1))
        before = (event.unknown | event.written).sum(1)
        table = torch.stack([event.rows, left, before, event.final.long()], 1)
        for row, count, start, final in int_rows(table):
            # A row that ends is forgotten: the next batch of the command has one of that number.
            gained = self.left.pop(row, start) - count
            self.bar.update(gained)
            self.shown[row] = self.shown.get(row, 0) + gained
            if final:
                del self.shown[row]
            else:
                self.left[row] = count

    def restart(self) -> None:
        """Take back the progress of rows that are not done, before they are run again."""
        self.bar.update(-sum(self.shown.values()))
        self.left.clear()
        self.shown.clear()

    def close(self) -> None:
        """Remove the bar."""
        self.bar.close()

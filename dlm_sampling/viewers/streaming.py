"""Feed transformers' streamers and a progress bar from step events.

A streamer takes one sequence.  The rows of a batch are streamed one after another, each closed by
`end()`, so that the stock streamers work for any batch size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor

from dlm_sampling.engine.request import Canvases
from dlm_sampling.engine.trajectory import StepEvent


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
    is done.  The rest of the canvas goes to `put_draft` if the streamer has that method.

    Args:
        streamer: a transformers streamer.
        canvases: the rows before the first step.
        revises: whether written tokens may still change.
        stop_token_ids: per row, ids that end its text: neither they nor later tokens are sent.
    """

    def __init__(
        self,
        streamer: Streamer,
        canvases: Canvases,
        revises: bool,
        stop_token_ids: Sequence[tuple[int, ...]],
    ) -> None:
        tokens, editable, attention = canvases.tokens, canvases.editable, canvases.attention
        self.streamer, self.revises, self.stop_token_ids = streamer, revises, stop_token_ids
        self.tokens, self.unknown = tokens.clone().cpu(), editable.clone().cpu()
        self.done = ~editable.any(1).cpu()
        self.origin = attention.long().argmax(1).cpu()
        self.first = torch.where(editable.any(1), editable.long().argmax(1), tokens.shape[1]).cpu()
        self.row = -1
        self.sent = 0
        self._open_next()

    def __call__(self, event: StepEvent) -> None:
        """Store an event; send tokens of the current row, then of finished rows after it."""
        rows = event.rows.cpu()
        self.tokens[rows], self.unknown[rows] = event.tokens.cpu(), event.unknown.cpu()
        self.done[rows] = event.final.cpu()
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
        if self.revises and not self.done[self.row]:
            return
        unknown = self.unknown[self.row, self.sent :]
        count = int(unknown.long().argmax()) if bool(unknown.any()) else len(unknown)
        tokens = self.tokens[self.row, self.sent : self.sent + count]
        ends = torch.tensor(self.stop_token_ids[self.row], dtype=torch.int64)
        stop = torch.isin(tokens, ends).nonzero()
        if len(stop):
            count = int(stop[0])
        for token in tokens[:count]:
            self.streamer.put(token.unsqueeze(0))
        self.sent += count

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
        for row, count, start, final in cast("list[list[int]]", table.tolist()):
            # A row that ends is forgotten: the next batch of the command has one of that number.
            self.bar.update(self.left.pop(row, start) - count)
            if not final:
                self.left[row] = count

    def close(self) -> None:
        """Remove the bar."""
        self.bar.close()

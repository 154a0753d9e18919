"""Show the canvas in the terminal while it is being denoised."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate, groupby
from operator import itemgetter
from types import TracebackType
from typing import Any

from rich.cells import chop_cells
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text
from torch import Tensor

from dlm_sampling.engine.trajectory import StepEvent
from dlm_sampling.types.values import bools, floats, ints
from dlm_sampling.viewers.safe_text import printable

SECONDS_PER_FRAME = 0.1
UNKNOWN = "·"
LEVELS = ((0.3, "magenta", "<.3"), (0.6, "yellow", "<.6"), (0.9, "cyan", "<.9"), (9.0, "", "≥.9"))


@dataclass
class RowView:
    """Hold the view of one batch row.

    Fields:
        tokens, unknown: int64 and bool [L], the canvas.
        fixed: bool [L], prompt, padding and infill context.
        confidence: [L], probability of each token when it was written.
        fresh: bool [L], written since the last frame.
        nfe: forward passes so far.
        done: whether the row is finished.
    """

    tokens: Tensor
    unknown: Tensor
    fixed: Tensor
    confidence: Tensor
    fresh: Tensor
    nfe: int = 0
    done: bool = False


@dataclass
class LiveCanvas:
    """Draw step events in the terminal; a callback for `generate` and a context manager.

    The prompt is dim, an unknown position is a dot, a token has the colour of its confidence, and
    tokens written since the last frame are in reverse video.  Under noise without a mask, any token
    of an unfinished block may be noise and is in italics.  The display shows the first row that is
    not done.

    Args:
        tokenizer: decodes tokens.
        console: the console to draw on; default standard error, as standard output is for results.
        masked: whether an unknown position holds a mask, rather than a noisy token.
    """

    tokenizer: Any
    console: Console = field(default_factory=lambda: Console(stderr=True, highlight=False))
    masked: bool = True
    rows: dict[int, RowView] = field(default_factory=dict[int, RowView])
    pieces: dict[tuple[int, ...], str] = field(default_factory=dict[tuple[int, ...], str])
    drawn: float = 0.0

    def __post_init__(self) -> None:
        self.live = self._new_live()
        ids: list[int] = self.tokenizer.encode("a", add_special_tokens=False)
        self.anchor = ids[-1:]
        self.anchor_text = self._decode(self.anchor)

    def _new_live(self) -> Live:
        return Live(
            console=self.console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def __enter__(self) -> LiveCanvas:
        # A used `Live` would erase the lines of its last frame, which may hold other text now.
        self.live = self._new_live()
        self.live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.live.stop()

    def restart(self) -> None:
        """Forget all rows, before another batch."""
        self.rows.clear()

    def __call__(self, event: StepEvent) -> None:
        """Store the rows of a step, and draw a frame if the last one is old enough."""
        statistics = event.log_confidence if event.log_confidence is not None else event.logprob
        known = event.written & ~event.unknown
        rows = ints(event.rows)
        for i, row in enumerate(rows):
            view = self.rows.get(row) or self._open(event, i)
            self.rows[row] = view
            view.tokens, view.unknown = event.tokens[i], event.unknown[i]
            view.confidence = statistics[i].exp().float().where(known[i], view.confidence)
            view.fresh = view.fresh | event.written[i]
            if self.masked:
                view.fresh = view.fresh & ~view.unknown
            view.nfe, view.done = int(event.nfe[i]), bool(event.final[i])
        now = time.monotonic()
        if now - self.drawn >= SECONDS_PER_FRAME or all(view.done for view in self.rows.values()):
            self.drawn = now
            self.live.update(self.frame(event.iteration + 1), refresh=True)

    def _open(self, event: StepEvent, i: int) -> RowView:
        """Make the view of a row at its first event."""
        fixed = ~(event.unknown[i] | event.written[i])
        empty = fixed & False
        return RowView(event.tokens[i], event.unknown[i], fixed, fixed.float(), empty)

    def frame(self, step: int) -> Group:
        """Return the frame: the text of the first row that is not done, and a status line."""
        focus = next((i for i, view in self.rows.items() if not view.done), max(self.rows))
        view = self.rows[focus]
        lines = fold_lines(self.canvas(view), self.console.width)
        height = max(3, self.console.height - 3)
        first = next((n for n, line in enumerate(lines) if UNKNOWN in line.plain), len(lines))
        top = max(0, min(first - height // 2, len(lines) - height))
        view.fresh = view.fresh & False
        return Group(*lines[top : top + height], self.status(focus, view, step))

    def status(self, focus: int, view: RowView, step: int) -> Text:
        """Return the status line: row, step, progress, NFE, and the legend of the colours."""
        total = int((~view.fixed).sum())
        known = total - int((view.unknown & ~view.fixed).sum())
        progress = f"{known}/{total} tokens" if self.masked or known else f"{total} noisy tokens"
        rows = f"row {focus + 1} of {max(self.rows) + 1} · " if len(self.rows) > 1 else ""
        text = Text(f"{rows}step {step} · {progress} · NFE {view.nfe}", style="dim")
        if not (self.masked or known):
            return text
        text.append(" · confidence")
        for _, colour, label in LEVELS:
            text.append(f" {label}", style=f"not dim {colour}")
        return text

    def canvas(self, view: RowView) -> Text:
        """Return the tokens of a row as styled text."""
        text = Text()
        for style, spans in groupby(self._spans(view), key=itemgetter(1)):
            text.append("".join(piece for piece, _ in spans), style=style)
        return text

    def _spans(self, view: RowView) -> Iterator[tuple[str, str]]:
        tokens = ints(view.tokens)
        unknown = bools(view.unknown)
        fixed = bools(view.fixed)
        fresh = bools(view.fresh)
        confidence = floats(view.confidence)
        i = leading_padding(tokens, fixed)
        while i < len(tokens):
            stop = i + 1
            if unknown[i] and self.masked:
                yield UNKNOWN, "dim"
            else:
                while (
                    stop < len(tokens)
                    and unknown[stop] == unknown[i]
                    and self._is_part(tokens[i:stop])
                ):
                    stop += 1
                style = "dim" if fixed[i] else colour_of(min(confidence[i:stop]))
                style = "italic" if unknown[i] else style
                yield self.piece(*tokens[i:stop]), f"{style} reverse" if fresh[i] else style
            i = stop

    def _is_part(self, tokens: list[int]) -> bool:
        """Return whether the tokens end inside a character (of at most four bytes)."""
        return len(tokens) < 4 and self.piece(*tokens).endswith("\ufffd")

    def piece(self, *tokens: int) -> str:
        """Return the text of tokens inside a sentence, with their leading space, safe to show.

        A special token, which decodes to nothing, is shown by its name.
        """
        if tokens not in self.pieces:
            text = self._decode([*self.anchor, *tokens]).removeprefix(self.anchor_text)
            names: list[str] = [] if text else self.tokenizer.convert_ids_to_tokens(list(tokens))
            self.pieces[tokens] = printable(text or "".join(names))
        return self.pieces[tokens]

    def _decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )


def fold_lines(text: Text, width: int) -> list[Text]:
    """Split a text into lines at newlines and at `width` cells.

    Lines are not split at words, so that the layout stays when a word appears.
    """
    text.expand_tabs(4)
    lines: list[Text] = []
    for line in text.split("\n", allow_blank=True):
        ends = accumulate(len(part) for part in chop_cells(line.plain, width))
        lines += line.divide(list(ends)[:-1])
    return lines


def leading_padding(tokens: list[int], fixed: list[bool]) -> int:
    """Return the length of the padding: equal fixed tokens, at least two, at the row's start."""
    count = 0
    while count < len(tokens) and fixed[count] and tokens[count] == tokens[0]:
        count += 1
    return count if count > 1 else 0


def colour_of(confidence: float) -> str:
    """Return the colour of a probability."""
    return next(colour for limit, colour, _ in LEVELS if confidence < limit)

"""Find where the text of a row ends: at an end-of-text token, a stop string, or its last position.

Every cut of a row is decided here: of its text, its ids and its canvas, of the tokens that a
streamer gets, and of a run that need not write further blocks.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

from torch import Tensor

from dlm_sampling.types.values import ints

UNFINISHED = "\ufffd"  # decoders write it for a character of which bytes are missing

FinishReason = Literal["eos", "stop", "length"]


class Cut(NamedTuple):
    """Say where a row's text ends.

    Fields:
        kept: leading tokens that hold nothing of a stop string.
        last: leading tokens that stay in the canvas: up to the end-of-text token, or up to the
            token that completes the stop string.
        reason: "eos", "stop", or "length" if nothing ended the text before its last position.
        part: characters of the next token that belong to the text; the stop string begins in it.
    """

    kept: int
    last: int
    reason: FinishReason
    part: int = 0


@dataclass(frozen=True)
class Ends:
    """Hold the rules of an end that all rows of a call share.

    Fields:
        ids: tokens that end a text.
        tokenizer: decodes, or None.
    """

    ids: frozenset[int] = frozenset()
    tokenizer: Any = None


@dataclass(frozen=True)
class RowEnd:
    """Find the end of one row's text.

    Fields:
        rules: end-of-text tokens and tokenizer.
        begin: first column of the text.
        prompt: tokens before the text; none where the row is filled in place.
        written: whether the run may write a position of the text; others are fixed.
        strings: stop strings; the text ends before the first one that it holds.
    """

    rules: Ends
    begin: int
    prompt: tuple[int, ...]
    written: list[bool]
    strings: tuple[str, ...] = ()

    def cut(self, ids: list[int]) -> Cut:
        """Find the end among the leading tokens of the text.

        An end-of-text counts where the run wrote it, not where it was given.
        """
        marks = zip(ids, self.written, strict=False)
        ends = (
            i for i, (token, written) in enumerate(marks) if written and token in self.rules.ids
        )
        end = next(ends, None)
        before = ids if end is None else ids[:end]
        if self.strings and self._place(before) is not None:
            return self._stop(before)
        return Cut(len(ids), len(ids), "length") if end is None else Cut(end, end + 1, "eos")

    def text(self, ids: list[int], cut: Cut) -> str:
        """Return the text up to a cut: prompt and text together are the decoded whole."""
        text = self._spoken(ids[: cut.kept], skip=True)
        if not cut.part:
            return text
        longer = self._spoken(ids[: cut.kept + 1], skip=True)
        return longer[: len(text.rstrip(UNFINISHED)) + cut.part]

    def complete(self, row: Tensor, stop: int) -> bool:
        """Return whether the text ends before column `stop` at a stop string.

        Args:
            row: int64 [L], the canvas; known left of column `stop`.
            stop: a column.
        """
        return self.cut(ints(row[self.begin : stop])).reason == "stop"

    def sendable(self, row: Tensor, known: int, final: bool) -> int:
        """Return the columns that a streamer may get: nothing of a stop string, begun or whole.

        Args:
            row: int64 [L], the canvas.
            known: columns from the left whose tokens will not change.
            final: whether the row is done; a stop string that is only begun then counts no more.
        """
        ids = ints(row[self.begin : max(self.begin, known)])
        cut = self.cut(ids)
        if cut.reason != "length":
            return self.begin + cut.kept
        if final or not self.strings:
            return known
        text = self._spoken(ids, skip=False)
        settled = len(text.rstrip(UNFINISHED))
        starts = (stop[:n] for stop in self.strings for n in range(1, len(stop)))
        begun = (len(start) for start in starts if text.endswith(start, 0, settled))
        return self.begin + self._within(ids, settled - max(begun, default=0))

    @cached_property
    def _spoken_prompt(self) -> str:
        """Return the decoded prompt without its special tokens."""
        return self._decoded([], skip=True) if self.prompt else ""

    @cached_property
    def _whole_prompt(self) -> str:
        """Return the decoded prompt with its special tokens."""
        return self._decoded([], skip=False) if self.prompt else ""

    def _decoded(self, ids: Sequence[int], skip: bool) -> str:
        return self.rules.tokenizer.decode([*self.prompt, *ids], skip_special_tokens=skip)

    def _spoken(self, ids: Sequence[int], skip: bool) -> str:
        """Decode tokens behind the prompt."""
        whole = self._decoded(ids, skip)
        before = self._spoken_prompt if skip else self._whole_prompt
        if whole.startswith(before):
            return whole[len(before) :]
        pairs = zip(before, whole, strict=False)
        differ = (i for i, (theirs, ours) in enumerate(pairs) if theirs != ours)
        return whole[next(differ, len(whole)) :]

    def _within(self, ids: Sequence[int], length: int) -> int:
        """Return the most leading tokens whose text has at most `length` characters."""
        counts = range(1, len(ids) + 1)
        return bisect_right(counts, length, key=lambda n: len(self._spoken(ids[:n], skip=False)))

    def _place(self, ids: Sequence[int]) -> int | None:
        """Return the first character of the first stop string in the text, or None."""
        text = self._spoken(ids, skip=False)
        return min((at for stop in self.strings if (at := text.find(stop)) >= 0), default=None)

    def _stop(self, ids: list[int]) -> Cut:
        """Return the cut at the stop string that the fewest tokens complete."""
        last = 1 + bisect_left(
            range(len(ids)), True, key=lambda n: self._place(ids[: n + 1]) is not None
        )
        at = self._place(ids[:last])
        assert at is not None
        kept = self._within(ids[:last], at)
        held = len(self._spoken(ids[:kept], skip=False).rstrip(UNFINISHED))
        return Cut(kept, last, "stop", at - held)

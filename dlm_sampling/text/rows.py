"""Lay prompts out as one left-padded batch of canvases.

The columns of a row are padding, then prompt, then new positions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch

from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.engine.request import Canvases
from dlm_sampling.text.endings import Ends, RowEnd
from dlm_sampling.types.values import bools

Ending = Literal["keep", "cut", "stop", "fill"]
Eos = Literal["auto"] | Ending


@dataclass(frozen=True)
class PromptRow:
    """Hold one prompt as token ids, and mark the positions inside it that are to be filled.

    Fields:
        ids: the tokens.
        fill: whether a position is to be filled, one per token.
        closing: tokens at the end that only close the text, such as BERT's [SEP].
        draft: tokens that the run begins with, in the order of the positions to write; a row may
            have more positions than that.  None begins with noise.
    """

    ids: list[int]
    fill: list[bool]
    closing: int = 0
    draft: tuple[int, ...] | None = None

    @property
    def infill(self) -> bool:
        """Return whether any position inside the prompt is to be filled."""
        return any(self.fill)

    def open(self) -> PromptRow:
        """Return the prompt without its closing tokens, as it stands before new positions."""
        length = len(self.ids) - self.closing
        return replace(self, ids=self.ids[:length], fill=self.fill[:length], closing=0)


@dataclass(frozen=True)
class TextRows:
    """Hold the canvases of a call, with the prompts and endings that turn them back into texts.

    Fields:
        canvases: the canvases before the first step.
        prompts: the prompt of each row.
        ends: finds the end of each row's text.
    """

    canvases: Canvases
    prompts: list[PromptRow]
    ends: list[RowEnd]


def build_rows(
    rows: list[PromptRow],
    new_tokens: list[int],
    denoiser: Denoiser,
    seeds: Sequence[int],
    eos: Eos,
    ends: Ends | None = None,
    stop: Sequence[tuple[str, ...]] | None = None,
) -> TextRows:
    """Left-pad the rows and append `new_tokens[i]` positions to write to row i.

    Args:
        rows: the prompts.
        new_tokens: positions to append to each.
        denoiser: gives the ids of padding and mask.
        seeds: one per row.
        eos: the treatment of an end-of-text; see `generate`.
        ends: the end-of-text ids and the tokenizer; None for neither.
        stop: the stop strings of each row; None for none.
    """
    lengths = [len(row.ids) + new for row, new in zip(rows, new_tokens, strict=True)]
    width, ends = max(lengths), Ends() if ends is None else ends
    pad = padding_id(denoiser, ends.ids)
    noise = pad if denoiser.mask_token_id is None else denoiser.mask_token_id
    tokens = torch.full((len(rows), width), pad, dtype=torch.int64)
    editable = torch.zeros(tokens.shape, dtype=torch.bool)
    attention = torch.zeros(tokens.shape, dtype=torch.bool)
    may_stop = torch.zeros(len(rows), dtype=torch.bool)
    found: list[RowEnd] = []
    for b, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        first, end = width - length, width - length + len(row.ids)
        tokens[b, first:end] = torch.tensor(row.ids, dtype=torch.int64)
        tokens[b, end:] = noise
        editable[b, first:end] = torch.tensor(row.fill, dtype=torch.bool)
        editable[b, end:] = True
        if row.draft is not None:
            places = editable[b].nonzero()[: len(row.draft), 0]
            tokens[b, editable[b]] = noise
            tokens[b, places] = torch.tensor(row.draft, dtype=torch.int64)
        attention[b, first:] = True
        closes = ending(eos, row)
        may_stop[b] = closes in ("stop", "fill")
        begin, prompt = (first, ()) if row.infill else (end, tuple(row.ids))
        written = bools(editable[b, begin:])
        own = ends if closes != "keep" else replace(ends, ids=frozenset[int]())
        found.append(RowEnd(own, begin, prompt, written, () if stop is None else stop[b]))
    watched = tuple(end.complete if end.strings else None for end in found)
    complete = watched if any(end.strings for end in found) else ()
    begins = torch.tensor([end.begin for end in found])
    canvases = Canvases(tokens, editable, attention, tuple(seeds), may_stop, complete, begins)
    return TextRows(canvases, rows, found)


def padding_id(denoiser: Denoiser, ends: Iterable[int] = ()) -> int:
    """Return the id at positions that hold no text: padding, an end-of-text, those given, or 0."""
    own = (denoiser.pad_token_id, denoiser.eos_token_id, *ends)
    return next((i for i in own if i is not None), 0)


def check_length(index: int, prompt: int, new: int, context: int | None) -> None:
    """Check that a row is not empty and fits into the model's context.

    Args:
        index: number of the prompt, for the message.
        prompt: tokens of the prompt.
        new: positions to append.
        context: maximum tokens of a row, or None for no limit.

    Raises:
        ValueError: the row is empty or too long; the message says by how much.
    """
    if prompt + new == 0:
        raise ValueError(
            f"Prompt {index} is empty and max_new_tokens=0: there is nothing to write."
        )
    if context is not None and prompt + new > context:
        over = prompt + new - context
        if prompt > over:
            remedy = f"Shorten the prompt by {over}" + (
                f", or ask for {new - over} new tokens." if new > over else "."
            )
        else:
            remedy = f"Ask for at most {max(0, context - prompt)} new tokens."
        raise ValueError(
            f"Prompt {index}: {prompt} tokens + {new} new exceed the context of {context}. {remedy}"
        )


def ending(eos: Eos, row: PromptRow) -> Ending:
    """Return the treatment of an end-of-text in a row."""
    if eos != "auto":
        return eos
    return "keep" if row.infill or not row.ids else "stop"

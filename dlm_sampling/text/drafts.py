"""Read drafts, the texts that a run begins with in place of noise."""

from __future__ import annotations

from typing import Any, cast

from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.errors import named
from dlm_sampling.text.arguments import items_of, read_ids
from dlm_sampling.text.encoding import check_encodable
from dlm_sampling.text.rows import PromptRow


def read_drafts(
    start: object, prompts: int, denoiser: Denoiser, tokenizer: Any
) -> list[tuple[int, ...] | None]:
    """Read the argument `start` of `generate`, one draft per prompt; None where there is none.

    Args:
        start: None, a text or a list of ids for all prompts, or a list with one of them per prompt.
        prompts: number of prompts.
        denoiser: gives the vocabulary.
        tokenizer: encodes texts, without special tokens; or None.

    Raises:
        TypeError: it is something else.
        ValueError: an id is outside of the vocabulary, drafts are not one per prompt, or there is
            a text and no tokenizer.
    """
    if start is None:
        return [None] * prompts
    if isinstance(start, str):
        return [_draft(start, denoiser, tokenizer)] * prompts
    entries = items_of(start)
    if entries is None:
        raise TypeError(
            f"start is {named(start)}: must be a text, token ids, or a list with one of them per "
            "prompt."
        )
    if entries and not any(isinstance(x, str) or items_of(x) is not None for x in entries):
        return [_draft(entries, denoiser, tokenizer)] * prompts
    if len(entries) != prompts:
        raise ValueError(
            f"start has {len(entries)} drafts for {prompts} prompts: give one per prompt, or one "
            "text for all."
        )
    return [_draft(entry, denoiser, tokenizer) for entry in entries]


def _draft(draft: object, denoiser: Denoiser, tokenizer: Any) -> tuple[int, ...]:
    """Return the ids of one draft."""
    if not isinstance(draft, str):
        return read_ids("start", draft, denoiser.vocab_size)
    if tokenizer is None:
        raise ValueError("start: a text needs a tokenizer, and the denoiser has none; give ids.")
    check_encodable(draft, f"start={draft!r}")
    return tuple(cast("list[int]", tokenizer(draft, add_special_tokens=False)["input_ids"]))


def check_draft(index: int, row: PromptRow, new: int, denoiser: Denoiser) -> None:
    """Check that the draft of a row fits the positions that are written.

    Args:
        index: number of the prompt, for the message.
        row: the prompt with its draft.
        new: positions that are appended.
        denoiser: without a mask, nothing could mark a position that the draft does not reach.

    Raises:
        ValueError: it is too long, or too short without a mask.
    """
    if row.draft is None:
        return
    places, given = sum(row.fill) + new, len(row.draft)
    if given > places:
        raise ValueError(
            f"Prompt {index}: its draft (start) has {given} tokens for {places} positions; ask "
            f"for max_new_tokens={new + given - places}, or shorten it."
        )
    if given < places and denoiser.mask_token_id is None:
        raise ValueError(
            f"Prompt {index}: its draft (start) has {given} tokens for {places} positions, and "
            "without a mask nothing marks the others; give max_new_tokens as long as the draft."
        )

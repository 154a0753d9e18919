"""Turn prompts of every kind into one left-padded batch of canvases.

A prompt is a text, a list of chat messages, token ids (ragged, or padded on either side), a string
with mask tokens, or empty; an infill mask may mark positions to fill.  The columns of a row are
padding, then prompt, then new positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor

from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.engine.request import Canvases

Ending = Literal["keep", "cut", "stop"]
Eos = Literal["auto"] | Ending
Infill = bool | Tensor | Sequence[Sequence[bool]]
Prompts = str | Sequence[Any] | Tensor | None


@dataclass(frozen=True)
class PromptRow:
    """Hold one prompt as token ids, and mark the positions inside it that are to be filled."""

    ids: list[int]
    fill: list[bool]

    @property
    def infill(self) -> bool:
        """Return whether any position inside the prompt is to be filled."""
        return any(self.fill)


@dataclass(frozen=True)
class TextRows:
    """Hold the canvases of a call, with the prompts and endings that turn them back into texts.

    Fields:
        canvases: the canvases before the first step.
        prompts: the prompt of each row.
        endings: the treatment of an end-of-text in each row: "keep", "cut" or "stop".
    """

    canvases: Canvases
    prompts: list[PromptRow]
    endings: list[Ending]


def read_prompts(
    prompts: Prompts,
    denoiser: Denoiser,
    tokenizer: Any,
    infill: Infill | None,
    attention_mask: Tensor | None,
) -> list[PromptRow]:
    """Turn the prompts of a call into rows of token ids.

    Raises:
        ValueError: text without a tokenizer, an infill or attention mask of another shape, an id
            outside the vocabulary, or a prompt of an unknown type.
    """
    _check_shapes(prompts, attention_mask, infill)
    if infill is True and denoiser.mask_token_id is None:
        raise ValueError(
            "infill=True fills the mask ids of the prompt, and this denoiser has none; pass a bool "
            "mask, True at the positions to fill."
        )
    if attention_mask is not None and not isinstance(prompts, Tensor):
        raise ValueError(
            "attention_mask: goes with a tensor of token ids; lists may be ragged and need none."
        )
    if isinstance(prompts, Tensor):
        rows = _from_tensor(prompts, attention_mask)
        masks = _explicit_infill(infill, prompts, attention_mask)
    else:
        rows = [_to_ids(p, i, tokenizer) for i, p in enumerate(_as_list(prompts))]
        masks = _explicit_infill(infill, rows, None)
    texts = (
        [isinstance(p, str) for p in _as_list(prompts)]
        if not isinstance(prompts, Tensor)
        else [False] * len(rows)
    )
    found: list[PromptRow] = []
    for i, ids in enumerate(rows):
        _check_ids(ids, i, denoiser.vocab_size)
        by_id = infill is True or (infill is None and texts[i])
        fill = (
            masks[i] if masks is not None else [by_id and t == denoiser.mask_token_id for t in ids]
        )
        if len(fill) != len(ids):
            raise ValueError(
                f"infill: row {i} has {len(fill)} entries for {len(ids)} tokens; give one "
                "per token."
            )
        found.append(PromptRow(ids, fill))
    return found


def build_rows(
    rows: list[PromptRow],
    new_tokens: list[int],
    denoiser: Denoiser,
    seeds: Sequence[int],
    eos: Eos,
) -> TextRows:
    """Left-pad the rows and append `new_tokens[i]` positions to write to row i.

    Args:
        rows: the prompts.
        new_tokens: positions to append to each.
        denoiser: gives the ids of padding and mask.
        seeds: one per row.
        eos: the treatment of an end-of-text; see `generate`.
    """
    lengths = [len(row.ids) + new for row, new in zip(rows, new_tokens, strict=True)]
    width = max(lengths)
    pad = next((i for i in (denoiser.pad_token_id, denoiser.eos_token_id) if i is not None), 0)
    tokens = torch.full((len(rows), width), pad, dtype=torch.int64)
    editable = torch.zeros(tokens.shape, dtype=torch.bool)
    attention = torch.zeros(tokens.shape, dtype=torch.bool)
    for b, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        first, end = width - length, width - length + len(row.ids)
        tokens[b, first:end] = torch.tensor(row.ids, dtype=torch.int64)
        tokens[b, end:] = pad if denoiser.mask_token_id is None else denoiser.mask_token_id
        editable[b, first:end] = torch.tensor(row.fill, dtype=torch.bool)
        editable[b, end:] = True
        attention[b, first:] = True
    endings: list[Ending] = [_ending(eos, row) for row in rows]
    may_stop = torch.tensor([ending == "stop" for ending in endings])
    return TextRows(Canvases(tokens, editable, attention, tuple(seeds), may_stop), rows, endings)


def _ending(eos: Eos, row: PromptRow) -> Ending:
    """Return the treatment of an end-of-text in a row."""
    if eos != "auto":
        return eos
    return "keep" if row.infill or not row.ids else "stop"


def _as_list(prompts: Prompts) -> list[Any]:
    """Return a list of prompts; a single string, chat or list of ids becomes a list of one."""
    if prompts is None:
        return [[]]
    if isinstance(prompts, str):
        return [prompts]
    if isinstance(prompts, Tensor):
        return list(prompts)
    listed = list(prompts)
    if not listed:
        raise ValueError(
            'prompts=[]: give at least one; an empty string "" generates without a prompt.'
        )
    single = isinstance(listed[0], int) or (isinstance(listed[0], Mapping) and "role" in listed[0])
    return [listed] if single else listed


def _to_ids(prompt: Any, index: int, tokenizer: Any) -> list[int]:
    """Return the token ids of one prompt."""
    if isinstance(prompt, str):
        return [] if not prompt else list(_need(tokenizer, index)(prompt)["input_ids"])
    if isinstance(prompt, Tensor):
        return cast("list[int]", prompt.tolist())
    if isinstance(prompt, Sequence):
        items: list[Any] = [*cast("Sequence[Any]", prompt)]
        if all(isinstance(i, int) for i in items):
            return items
        if all(isinstance(i, Mapping) and "role" in i for i in items):
            return _chat_ids(items, index, _need(tokenizer, index))
    kind: str = type(cast("object", prompt)).__name__
    raise ValueError(
        f"Prompt {index}: {kind} is not understood. "
        "Give a string, chat messages (role, content), token ids, or a tensor of ids."
    )


def _check_shapes(prompts: Prompts, attention_mask: Tensor | None, infill: Infill | None) -> None:
    """Check that a tensor of prompts has rows, and that its masks have its shape."""
    if not isinstance(prompts, Tensor):
        return
    shape = tuple(prompts.shape)
    if prompts.ndim == 2 and len(prompts) == 0:
        raise ValueError(f"prompts {shape}: no rows; give at least one, or None for no prompt.")
    for name, mask in (("attention_mask", attention_mask), ("infill", infill)):
        if isinstance(mask, Tensor) and tuple(mask.shape) != shape:
            raise ValueError(f"{name} {tuple(mask.shape)}: must be {shape}, as prompts.")


def _chat_ids(messages: list[Any], index: int, tokenizer: Any) -> list[int]:
    """Return the ids of chat messages through the chat template, up to the start of the answer."""
    if not tokenizer.chat_template:
        raise ValueError(
            f"Prompt {index} holds chat messages, and the tokenizer has no chat template. "
            "Give a string, or set tokenizer.chat_template."
        )
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _need(tokenizer: Any, index: int) -> Any:
    if tokenizer is None:
        raise ValueError(
            f"Prompt {index} is text, and the denoiser has no tokenizer. Pass tokenizer=, "
            "or token ids."
        )
    return tokenizer


def _from_tensor(prompts: Tensor, attention_mask: Tensor | None) -> list[list[int]]:
    """Return the rows of a [B, L] (or [L]) tensor without their padding on either side."""
    table = prompts.unsqueeze(0) if prompts.ndim == 1 else prompts
    if table.ndim != 2 or table.dtype.is_floating_point:
        raise ValueError(
            f"prompts {tuple(prompts.shape)} {prompts.dtype}: must be integer ids [batch, length]."
        )
    if attention_mask is None:
        return cast("list[list[int]]", table.tolist())
    mask = attention_mask.reshape(table.shape).bool()
    return [row[keep].tolist() for row, keep in zip(table.cpu(), mask.cpu(), strict=True)]


def _explicit_infill(
    infill: Infill | None, rows: Any, attention_mask: Tensor | None
) -> list[list[bool]] | None:
    """Return the caller's infill mask per row, or None if mask ids decide the infill."""
    if infill is None or isinstance(infill, bool):
        return None
    if isinstance(infill, Tensor):
        table = infill.unsqueeze(0) if infill.ndim == 1 else infill
        if attention_mask is not None:
            keep = attention_mask.reshape(table.shape).bool().cpu()
            return [row[k].bool().tolist() for row, k in zip(table.cpu(), keep, strict=True)]
        return [row.bool().tolist() for row in table]
    listed = [list(row) for row in infill]
    if len(listed) != len(rows):
        raise ValueError(
            f"infill has {len(listed)} rows for {len(rows)} prompts: give one per prompt."
        )
    return listed


def _check_ids(ids: list[int], index: int, vocab_size: int) -> None:
    for position, token in enumerate(ids):
        if not 0 <= token < vocab_size:
            raise ValueError(
                f"Prompt {index}, position {position}: id {token} is outside the vocabulary "
                f"of {vocab_size}."
            )


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

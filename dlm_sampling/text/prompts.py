"""Read prompts of every kind as rows of token ids.

A prompt is a text, a list of chat messages, token ids (ragged, or padded on either side), what a
tokenizer returns for one, a string with mask tokens, or empty; an infill mask may mark positions to
fill.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any, TypeGuard, TypeVar, cast

import torch
from torch import Tensor

from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.text.arguments import is_listing, plain, whole_number
from dlm_sampling.text.encoding import Encoder
from dlm_sampling.text.masks import mask_rows
from dlm_sampling.text.rows import PromptRow

Mask = Tensor | Iterable[bool] | Iterable[Iterable[bool]]
Infill = bool | Mask
Prompts = str | Mapping[str, Any] | Iterable[Any] | Tensor | None

BESIDE_IDS = {
    "attention_mask", "token_type_ids", "special_tokens_mask", "offset_mapping", "length",
    "overflow_to_sample_mapping", "overflowing_tokens", "num_truncated_tokens",
}  # fmt: skip
"""Keys of a tokenizer's output beside its input_ids; only attention_mask is read."""

T = TypeVar("T")


@dataclass(frozen=True)
class _Read:
    """Hold one prompt as it was given.

    Fields:
        ids: token ids, padding included.
        keep: False at padding; None without padding.
        text: whether the prompt was a string, whose mask tokens are filled.
        closing: ids at the end that only close the text.
        chat: whether the prompt was a chat.
    """

    ids: list[int]
    keep: list[bool] | None = None
    text: bool = False
    closing: int = 0
    chat: bool = False


def read_prompts(
    prompts: Prompts,
    denoiser: Denoiser,
    encoder: Encoder,
    infill: Infill | None = None,
    attention_mask: Mask | None = None,
) -> list[PromptRow]:
    """Turn the prompts of a call into rows of token ids.

    Args:
        prompts: see `generate`; an iterator is consumed once.
        denoiser: gives the vocabulary and the mask id.
        encoder: turns texts and chats into ids.
        infill: see `generate`.
        attention_mask: False (0) at padding of token ids, or None.

    Raises:
        TypeError: a mask holds something else than True, False, 0 and 1.
        ValueError: a prompt cannot be read, text comes without a tokenizer, a mask has another
            shape, or an id is outside the vocabulary.
    """
    if infill is True and denoiser.mask_token_id is None:
        raise ValueError(
            "infill=True fills the mask ids of the prompt, and this denoiser has none; pass a bool "
            "mask, True at the positions to fill."
        )
    read = _read_all(prompts, encoder)
    if encoder.template and not any(prompt.chat for prompt in read):
        raise ValueError("chat_template_kwargs: goes with chat messages, and no prompt is a chat.")
    if attention_mask is not None:
        read = _masked(read, attention_mask)
    marks = None
    if not (infill is None or isinstance(infill, bool)):
        marks = mask_rows("infill", infill, [len(prompt.ids) for prompt in read])
    rows: list[PromptRow] = []
    for i, prompt in enumerate(read):
        keep = _span(prompt, i)
        ids = prompt.ids[keep]
        _check_ids(ids, i, denoiser.vocab_size)
        by_id = infill is True or (infill is None and prompt.text)
        fill = (
            marks[i][keep]
            if marks is not None
            else [by_id and token == denoiser.mask_token_id for token in ids]
        )
        rows.append(PromptRow(ids, fill, prompt.closing))
    return rows


def _read_all(prompts: object, encoder: Encoder) -> list[_Read]:
    """Read one prompt or several, as they were given."""
    prompts = plain(prompts)
    if prompts is None:
        return [_Read([])]
    if isinstance(prompts, Tensor):
        return [_Read(row) for row in _table(prompts, "prompts")]
    if _is_encoding(prompts):
        return _read_encoding(prompts, "prompts")
    if not is_listing(prompts):
        return [_read_one(prompts, 0, encoder)]
    listed = list(prompts)
    if not listed:
        raise ValueError(
            'prompts=[]: give at least one; an empty string "" generates without a prompt.'
        )
    if _is_number(listed[0]) or _is_message(listed[0]):
        return [_read_one(listed, 0, encoder)]
    return [_read_one(prompt, i, encoder) for i, prompt in enumerate(listed)]


def _read_one(prompt: object, index: int, encoder: Encoder) -> _Read:
    """Read a single prompt."""
    name, prompt = f"Prompt {index}", plain(prompt)
    if isinstance(prompt, str):
        encoded = encoder.text(prompt, index)
        return _Read(encoded.ids, text=True, closing=encoded.closing)
    if isinstance(prompt, Tensor):
        return _Read(_single(_table(prompt, name), name))
    if _is_encoding(prompt):
        return _single(_read_encoding(prompt, name), name)
    if _is_message(prompt):
        return _Read(encoder.chat([prompt], index).ids, chat=True)
    if not is_listing(prompt):
        raise _not_understood(prompt, name)
    items = list(prompt)
    if any(_is_message(item) for item in items):
        return _Read(encoder.chat(_messages(items, name), index).ids, chat=True)
    if items and not _is_number(items[0]):
        raise _not_understood(prompt, name)
    return _Read(_as_ids(items, name))


def _read_encoding(given: Mapping[str, object], name: str) -> list[_Read]:
    """Read the output of a tokenizer: the ids, and the mask of their padding."""
    others = [key for key in given if key not in {"input_ids", *BESIDE_IDS}]
    if others:
        raise ValueError(
            f"{name}: {others[0]!r} beside input_ids is not read by a text model; leave it out."
        )
    rows = [_Read(row) for row in _table(plain(given["input_ids"]), f"{name}, input_ids")]
    mask = given.get("attention_mask")
    return rows if mask is None else _masked(rows, mask)


def _table(values: object, name: str) -> list[list[int]]:
    """Return the rows of token ids in a tensor or array [B, L] or [L], or in lists."""
    if isinstance(values, Tensor):
        if values.is_nested or values.layout is not torch.strided:
            kind = "nested" if values.is_nested else "sparse"
            raise ValueError(f"{name}: a {kind} tensor is not read; give a list of rows of ids.")
        shape = tuple(values.shape)
        kind = values.dtype
        whole = not (kind.is_floating_point or kind.is_complex or kind == torch.bool)
        if len(shape) not in (1, 2) or not whole:
            raise ValueError(f"{name} {shape} {values.dtype}: must be integer ids [batch, length].")
        if len(shape) == 2 and shape[0] == 0:
            raise ValueError(f"{name} {shape}: no rows; give at least one, or None for no prompt.")
        listed = cast("list[Any]", values.tolist())
        return [listed] if len(shape) == 1 else listed
    if not is_listing(values):
        raise _not_understood(values, name)
    items = list(values)
    if not items or _is_number(items[0]):
        return [_as_ids(items, name)]
    return [_single(_table(plain(item), f"{name}, row {i}"), name) for i, item in enumerate(items)]


def _single(rows: list[T], name: str) -> T:
    """Return the row of a prompt that must have one only."""
    if len(rows) != 1:
        raise ValueError(
            f"{name} holds {len(rows)} rows: every prompt of a list is one row; pass a batch "
            "alone, not in a list."
        )
    return rows[0]


def _masked(rows: list[_Read], mask: object) -> list[_Read]:
    """Return the rows with an attention mask."""
    if any(row.text or row.chat or row.keep is not None for row in rows):
        raise ValueError(
            "attention_mask: goes with token ids that bring none of their own; texts need none."
        )
    found = mask_rows("attention_mask", mask, [len(row.ids) for row in rows])
    return [_Read(row.ids, keep) for row, keep in zip(rows, found, strict=True)]


def _span(prompt: _Read, index: int) -> slice:
    """Return the place of a prompt between its padding."""
    if prompt.keep is None:
        return slice(None)
    kept = [i for i, keep in enumerate(prompt.keep) if keep]
    if kept and len(kept) != kept[-1] + 1 - kept[0]:
        raise ValueError(
            f"attention_mask: row {index} has a gap; padding (0) stands left or right of a prompt, "
            "not inside."
        )
    return slice(kept[0], kept[-1] + 1) if kept else slice(0, 0)


def _is_encoding(value: object) -> TypeGuard[Mapping[str, object]]:
    """Return whether it is the output of a tokenizer."""
    return isinstance(value, Mapping) and "input_ids" in value


def _is_number(value: object) -> bool:
    """Return whether it is one whole number."""
    try:
        whole_number(value)
    except TypeError:
        return False
    return True


def _is_message(value: object) -> TypeGuard[Mapping[str, Any]]:
    """Return whether it is a message of a chat."""
    return isinstance(value, Mapping) and "role" in value


def _messages(items: list[Any], name: str) -> list[Mapping[str, Any]]:
    """Return the messages of a chat, each checked to be one."""
    for number, item in enumerate(items):
        if not _is_message(item):
            raise ValueError(
                f"{name}, message {number}: must be a mapping with a role and a content, as the "
                "other messages of the chat."
            )
    return items


def _as_ids(items: list[Any], name: str) -> list[int]:
    """Return token ids as ints of Python."""
    found: list[int] = []
    for position, item in enumerate(items):
        try:
            found.append(whole_number(item))
        except TypeError:
            raise ValueError(
                f"{name}, position {position}: {item!r} is no token id, and the prompt begins with "
                "one."
            ) from None
    return found


def _not_understood(value: object, name: str) -> ValueError:
    """Return the error for a prompt of another kind."""
    if isinstance(value, bytes | bytearray | memoryview):
        return ValueError(f"{name}: bytes are no text yet; decode them first: prompt.decode().")
    kind = type(value).__name__
    if isinstance(value, Mapping):
        keys = ", ".join(repr(key) for key in list(cast("Mapping[object, object]", value))[:4])
        kind = f"a {kind} with the keys {keys}" if keys else f"an empty {kind}"
    if isinstance(value, Set):
        kind = f"a {kind}, which has no order,"
    return ValueError(
        f"{name}: {kind} is not understood. Give a string, chat messages (role, content), token "
        "ids, a tensor of ids, or the output of a tokenizer (input_ids, attention_mask)."
    )


def _check_ids(ids: list[int], index: int, vocab_size: int) -> None:
    for position, token in enumerate(ids):
        if not 0 <= token < vocab_size:
            raise ValueError(
                f"Prompt {index}, position {position}: id {token} is outside the vocabulary "
                f"of {vocab_size}."
            )

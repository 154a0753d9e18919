"""Hold the prompts of a file one by one, and check the values of each."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from dlm_sampling.errors import UsageError, suggestion

Record = Mapping[str, Any]


@dataclass(frozen=True)
class PromptItem:
    """Hold one prompt of a file.

    Fields:
        prompt: text, chat messages, or token ids.
        name: its "id", or None.
        max_new_tokens: positions to append to this prompt, or None for those of the run.
        seed: seed of this prompt alone, or None.
        error: why it is no prompt, or None.
        place: line or row of its file, such as "prompts.jsonl, line 3", or None; prompts of other
            places may be equal.
    """

    prompt: str | list[Any]
    name: str | int | None = None
    max_new_tokens: int | None = None
    seed: int | None = None
    error: str | None = None
    place: str | None = field(default=None, compare=False)

    def called(self, index: int) -> str:
        """Return what messages call the prompt: its number, its place and its id."""
        more = [] if self.place is None else [self.place]
        more += [] if self.name is None else [f"id {self.name!r}"]
        return f"Prompt {index}" + (f" ({', '.join(more)})" if more else "")

    def told(self, index: int, message: str) -> str:
        """Return a message of a call that had this prompt alone, with the prompt's own name."""
        own, name = "Prompt 0", self.called(index)
        return message.replace(own, name, 1) if own in message else f"{name}: {message}"


def check_names(items: Sequence[PromptItem], place: str) -> None:
    """Refuse an id that stands twice; `place` says where the prompts are from.

    Raises:
        UsageError: the message names up to three of them.
    """
    seen: set[str] = set()
    twice: list[str] = []
    for item in items:
        name = str(item.name)
        if item.name is not None and name in seen:
            twice.append(repr(name))
        seen.add(name)
    if twice:
        raise UsageError(
            f"{place}: {len(twice)} ids stand twice, such as {', '.join(twice[:3])}. A seed "
            "belongs to an id: make ids unique, or leave them out."
        )


def to_item(value: Any, place: str, column: str | None) -> PromptItem:
    """Read an object with "prompt" (text) or "messages" (chat), or a bare string.

    A `UsageError` stands for a row that cannot be read.
    """
    if isinstance(value, UsageError):
        return PromptItem("", error=str(value), place=place)
    is_record = isinstance(value, dict)
    record = cast("Record", value) if is_record else {column or "prompt": value}
    if column is not None and column not in record:
        hint = suggestion(column, record) or f"Its columns: {', '.join(record) or 'none'}."
        raise UsageError(f"{place} has no column '{column}'. {hint}")
    names = ("prompt", "messages") if column is None else (column,)
    prompt = next((record[n] for n in names if record.get(n) is not None), None)
    try:
        return PromptItem(
            _prompt(prompt, record, names),
            _value(record, "id", (str, int)),
            _whole(record, "max_new_tokens"),
            _seed(record),
            place=place,
        )
    except ValueError as error:
        text = prompt if isinstance(prompt, str) else json.dumps(prompt, default=repr)
        safe = text.encode("utf-8", "backslashreplace").decode()
        name = record.get("id")
        name = name if isinstance(name, str | int) and not isinstance(name, bool) else None
        named = place if name is None else f"{place}, id {name!r}"
        return PromptItem(safe, name, error=f"{named}: {error}", place=place)


def _prompt(value: Any, record: Record, names: tuple[str, ...]) -> str | list[Any]:
    """Check the prompt of a record."""
    if isinstance(value, str):
        _encodable(value)
        return value
    parts = cast("list[Any]", value) if isinstance(value, list) else []
    if parts and all(isinstance(part, int) for part in parts):
        return parts
    if parts and all(isinstance(part, dict) and "role" in part for part in parts):
        # Tables fill the keys that only other messages have with None.
        messages = cast("list[Record]", parts)
        chat = [{k: v for k, v in message.items() if v is not None} for message in messages]
        _encodable(json.dumps(chat, ensure_ascii=False))
        return list(chat)
    if names == ("prompt", "messages") and value is not None:
        name = next(name for name in names if record.get(name) is not None)
        kind = f"of type {type(cast(object, value)).__name__}"
        if isinstance(value, list):
            kind = "a list, but neither of token ids nor of messages with a role"
        raise ValueError(f"'{name}' is {kind}: must be a string or a list of messages.")
    if names == ("prompt", "messages"):
        texts = (k for k, v in record.items() if isinstance(v, str) and k != "id")
        hint = next((f" Try --column {k}." for k in texts), "")
        raise ValueError(f'needs "prompt" (a string) or "messages" (a list of messages).{hint}')
    kind = "empty" if value is None else f"of type {type(cast(object, value)).__name__}"
    raise ValueError(f"column '{names[0]}' is {kind}: must be a string or a list of messages.")


def _encodable(text: str) -> None:
    """Refuse half a surrogate pair, which no tokenizer can encode."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        code = f"\\u{ord(text[error.start]):04x}"
        raise ValueError(
            f"half a surrogate pair ({code}) at character {error.start}; write both halves, or "
            "the character itself."
        ) from error


def _value(record: Record, key: str, kinds: tuple[type, ...]) -> Any:
    """Return an optional entry after checking its type."""
    value = record.get(key)
    if value is not None and (not isinstance(value, kinds) or isinstance(value, bool)):
        allowed = " or ".join("a string" if kind is str else "a whole number" for kind in kinds)
        raise ValueError(f"{key}={value!r}: must be {allowed}.")
    return value


def _seed(record: Record) -> int | None:
    """Return an optional seed."""
    from dlm_sampling.ops.philox import check_seed  # which imports torch

    seed = _whole(record, "seed")
    return None if seed is None else check_seed(seed)


def _whole(record: Record, key: str) -> int | None:
    """Return an optional whole number; cells of a table in text hold it as digits."""
    value = record.get(key)
    if isinstance(value, str) and re.fullmatch(r"\d{1,20}", value.strip()):
        return int(value)
    return _value(record, key, (int,))

"""Read the bytes that each token adds to a text, from the tokenizer."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence, Sized
from typing import Any, Protocol, runtime_checkable

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_UNKNOWN = "\ufffd"


class Backend(Protocol):
    """Hold the state of a fast tokenizer."""

    def to_str(self) -> str:
        """Return it as JSON."""
        ...


class Decodes(Protocol):
    """Turn ids into text: what every tokenizer can do."""

    def decode(self, ids: list[int]) -> str:
        """Return the text of ids."""
        ...


@runtime_checkable
class Special(Protocol):
    """Say which ids texts leave out; a tokenizer that does not has none."""

    @property
    def all_special_ids(self) -> Sequence[int]:
        """Return the ids."""
        ...


@runtime_checkable
class Fast(Special, Protocol):
    """Say how names of tokens become text: a tokenizer of the package `tokenizers`."""

    @property
    def backend_tokenizer(self) -> Backend:
        """Return its state."""
        ...

    def get_vocab(self) -> Mapping[str, int]:
        """Return the id of each name."""
        ...

    def get_added_vocab(self) -> Mapping[str, int]:
        """Return the id of each name that stands for itself."""
        ...


def token_bytes(tokenizer: Decodes, vocab_size: int) -> list[bytes | None]:
    """Return the bytes of each id in [0, vocab_size); None where an id adds no text.

    None are special tokens, which texts leave out, and ids that the tokenizer does not know.

    Args:
        tokenizer: of transformers, or any object with `decode`; see `Special` and `Fast` for what
            it may tell besides.
        vocab_size: V.
    """
    special = set(tokenizer.all_special_ids) if isinstance(tokenizer, Special) else set[int]()
    parts = _decoder_parts(tokenizer) if isinstance(tokenizer, Fast) else set[str]()
    if isinstance(tokenizer, Fast) and parts & {"ByteLevel", "ByteFallback"}:
        names: list[str | None] = [None] * vocab_size
        for name, token in tokenizer.get_vocab().items():
            if token < vocab_size and token not in special:
                names[token] = name
        added = tokenizer.get_added_vocab()
        read = _byte_level if "ByteLevel" in parts else _byte_fallback
        return [
            None if name is None else name.encode() if name in added else read(name)
            for name in names
        ]
    return _by_decoding(tokenizer, vocab_size, special)


def _decoder_parts(tokenizer: Fast) -> set[str]:
    """Return the types of the parts of a tokenizer's decoder."""
    state: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    decoder: dict[str, Any] = state.get("decoder") or {"type": ""}
    parts: list[dict[str, Any]] = [decoder, *decoder.get("decoders", ())]
    return {part["type"] for part in parts}


def _byte_level(name: str) -> bytes | None:
    """Return the bytes of a token of byte-level BPE, which writes each as a printable letter."""
    table = _LETTERS
    if any(letter not in table for letter in name):
        return None
    return bytes(table[letter] for letter in name)


def _letters() -> dict[str, int]:
    """Return the byte of each letter: printable Latin-1 stands for itself, others from 256 on."""
    own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(own)]
    return {chr(byte): byte for byte in own} | {chr(256 + i): b for i, b in enumerate(others)}


_LETTERS = _letters()


def _byte_fallback(name: str) -> bytes:
    """Return the bytes of a token of sentencepiece, which writes a space as U+2581."""
    found = _BYTE.fullmatch(name)
    return bytes([int(found[1], 16)]) if found else name.replace("\u2581", " ").encode()


def _by_decoding(tokenizer: Decodes, vocab_size: int, special: set[int]) -> list[bytes | None]:
    """Return what each token adds to the text of another one; None where that is no whole text."""
    size = min(vocab_size, len(tokenizer)) if isinstance(tokenizer, Sized) else vocab_size
    texts = (tokenizer.decode([token]) for token in range(size))
    anchor = next((t for t, text in enumerate(texts) if text.strip() and t not in special), None)
    before = "" if anchor is None else tokenizer.decode([anchor])
    found: list[bytes | None] = [None] * vocab_size
    for token in range(size):
        if token in special or anchor is None:
            continue
        whole = tokenizer.decode([anchor, token])
        if whole.startswith(before) and len(whole) > len(before) and _UNKNOWN not in whole:
            found[token] = whole[len(before) :].encode()
    return found

"""Read the bytes that each token adds to a text, from the tokenizer."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, cast

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_UNKNOWN = "\ufffd"


def token_bytes(tokenizer: Any, vocab_size: int) -> list[bytes | None]:
    """Return the bytes of each id in [0, vocab_size); None where an id adds no text.

    None are special tokens, which texts leave out, and ids that the tokenizer does not know.

    Args:
        tokenizer: of transformers, or any object with `decode`.
        vocab_size: V.
    """
    parts = _decoder_parts(tokenizer)
    special = set(cast("list[int]", vars_of(tokenizer, "all_special_ids", [])))
    if parts & {"ByteLevel", "ByteFallback"}:
        known = cast("Mapping[str, int]", tokenizer.get_vocab())
        names: list[str | None] = [None] * vocab_size
        for name, token in known.items():
            if token < vocab_size and token not in special:
                names[token] = name
        added = cast("Mapping[str, int]", tokenizer.get_added_vocab())
        read = _byte_level if "ByteLevel" in parts else _byte_fallback
        return [
            None if name is None else name.encode() if name in added else read(name)
            for name in names
        ]
    return _by_decoding(tokenizer, vocab_size, special)


def vars_of(value: Any, name: str, missing: Any) -> Any:
    """Return an attribute that tokenizers may lack."""
    return getattr(value, name) if hasattr(value, name) else missing


def _decoder_parts(tokenizer: Any) -> set[str]:
    """Return the types of the parts of a fast tokenizer's decoder, none of a slow one."""
    backend = vars_of(tokenizer, "backend_tokenizer", None)
    if not hasattr(backend, "to_str"):
        return set()
    decoder: dict[str, Any] = json.loads(backend.to_str()).get("decoder") or {"type": ""}
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


def _by_decoding(tokenizer: Any, vocab_size: int, special: set[int]) -> list[bytes | None]:
    """Return what each token adds to the text of another one; None where that is no whole text."""
    size = min(vocab_size, len(tokenizer) if hasattr(tokenizer, "__len__") else vocab_size)
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

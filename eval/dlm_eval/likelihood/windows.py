"""Cut documents into the windows of tokens that a model scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dlm_eval.likelihood.documents import Document
from dlm_eval.likelihood.protocols import Protocol


@dataclass(frozen=True)
class Window:
    """Hold tokens that one pass sees.

    Fields:
        document: index of the document.
        ids: the tokens.
        scored: [begin, end) of the tokens whose likelihood is bounded.
        characters: length of their text; of a part of a document its share of it.
        left_out: first tokens of a pair that did not fit.
    """

    document: int
    ids: tuple[int, ...]
    scored: tuple[int, int]
    characters: float
    left_out: int = 0

    @property
    def tokens(self) -> int:
        """Return the number of scored tokens."""
        return self.scored[1] - self.scored[0]


def encode(tokenizer: Any, text: str) -> list[int]:
    """Return the ids of a text, without special tokens."""
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def encode_pair(tokenizer: Any, prompt: str, answer: str) -> tuple[list[int], list[int]]:
    """Return the ids of prompt and answer: those of the whole text, split where the prompt ends.

    White space at the end of the prompt goes to the answer, as tokenizers join it with the next
    word; lm-evaluation-harness does the same.  Where a token reaches over the border, as in "ti"
    and "me", prompt and answer are encoded by themselves: else the context had letters of the
    answer.
    """
    bare = prompt.rstrip()
    whole, own = encode(tokenizer, prompt + answer), encode(tokenizer, bare)
    if whole[: len(own)] != own:
        return own, encode(tokenizer, (prompt + answer)[len(bare) :])
    return whole[: len(own)], whole[len(own) :]


def cut(documents: Sequence[Document], tokenizer: Any, protocol: Protocol) -> list[Window]:
    """Return the windows of all documents, in their order.

    A document without a prompt is cut into parts of `length` tokens that are scored by themselves.
    A pair is one window; if it is too long, its first tokens are dropped.  Blank texts, and pairs
    whose scored part is empty, have no window.
    """
    if protocol.packed:
        return _packed(documents, tokenizer, protocol)
    windows: list[Window] = []
    for index, document in enumerate(documents):
        if not has_text(document, protocol):
            continue
        if document.prompt is None:
            ids = _closed(tokenizer, document, protocol)
            share = len(document.text) / max(len(ids), 1)
            for first in range(0, len(ids), protocol.length):
                part = tuple(ids[first : first + protocol.length])
                windows.append(Window(index, part, (0, len(part)), share * len(part)))
        else:
            windows.append(_pair(index, document, tokenizer, protocol))
    return [window for window in windows if window.tokens]


def has_text(document: Document, protocol: Protocol) -> bool:
    """Return whether a document has a text to score."""
    if document.prompt is None:
        return bool(document.text.strip())
    if protocol.packed:
        return bool((document.prompt + document.text).strip())
    parts = {"answer": document.text, "prompt": document.prompt}
    return bool(parts.get(protocol.score, document.prompt + document.text))


def _closed(tokenizer: Any, document: Document, protocol: Protocol) -> list[int]:
    text = document.text if document.prompt is None else document.prompt + document.text
    end = tokenizer.eos_token_id
    return encode(tokenizer, text) + ([end] if protocol.end and end is not None else [])


def _pair(index: int, document: Document, tokenizer: Any, protocol: Protocol) -> Window:
    assert document.prompt is not None
    prompt, answer = encode_pair(tokenizer, document.prompt, document.text)
    whole = [*prompt, *answer]
    ids = whole[-protocol.length :]
    border = max(len(ids) - len(answer), 0)
    scored = {"answer": (border, len(ids)), "prompt": (0, border), "both": (0, len(ids))}
    characters = {"answer": len(document.text), "prompt": len(document.prompt)}
    characters["both"] = sum(characters.values())
    tokens = {"answer": len(answer), "prompt": len(prompt), "both": len(whole)}
    part = protocol.score
    begin, end = scored[part]
    share = characters[part] * (end - begin) / max(tokens[part], 1)
    return Window(index, tuple(ids), (begin, end), share, len(whole) - len(ids))


def _packed(documents: Sequence[Document], tokenizer: Any, protocol: Protocol) -> list[Window]:
    documents = [document for document in documents if has_text(document, protocol)]
    stream = [id for document in documents for id in _closed(tokenizer, document, protocol)]
    letters = sum(len(document.text) + len(document.prompt or "") for document in documents)
    size = protocol.length
    share = letters / max(len(stream), 1) * size
    whole = range(0, len(stream) - size + 1, size)
    return [Window(0, tuple(stream[i : i + size]), (0, size), share) for i in whole]

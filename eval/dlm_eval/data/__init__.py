"""Texts and a judge that come with the evaluation, so that it runs without a network.

`judge/` is a small causal language model (see its README.md), `books/` the two whole books that
none of the models of this project was trained on: "The Road to Oz" and "The Princess and the
Goblin", CC0 editions of Standard Ebooks.
"""

from __future__ import annotations

import lzma
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent
JUDGE = FOLDER / "judge"
"""Checkpoint of the judge, for `CausalJudge.from_pretrained`."""


@cache
def held_out_books() -> dict[str, str]:
    """Return the held-out books, text by name."""
    files = sorted((FOLDER / "books").glob("*.txt.xz"))
    return {
        path.name.removesuffix(".txt.xz"): lzma.decompress(path.read_bytes()).decode("utf-8")
        for path in files
    }


def passages(count: int, characters: int) -> list[str]:
    """Return passages of the held-out books, spread evenly over both.

    A passage begins and ends between words and has at most `characters` characters, blanks at its
    ends left out.  Passages do not overlap, and the same arguments give the same ones.

    Raises:
        ValueError: count < 1, characters < 20, or the books hold fewer passages of that length.
    """
    if count < 1:
        raise ValueError(f"count={count}: must be at least 1.")
    if characters < 20:
        raise ValueError(f"characters={characters}: must be at least 20; try 512.")
    every = [part for text in held_out_books().values() for part in _cut(text, characters)]
    if count > len(every):
        raise ValueError(
            f"{count} passages of {characters} characters: the held-out books hold {len(every)}; "
            "take fewer or shorter ones, or references of your own."
        )
    return [every[i * len(every) // count] for i in range(count)]


def _cut(text: str, characters: int) -> list[str]:
    """Cut a text between words into whole passages."""
    found: list[str] = []
    start = 0
    while start + characters < len(text):
        end = text.rfind(" ", start, start + characters + 1)
        end = start + characters if end <= start else end
        found.append(text[start:end].strip())
        start = end
    return found

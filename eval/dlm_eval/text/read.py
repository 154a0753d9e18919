"""Read texts from files and data sets."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from dlm_sampling.errors import UsageError
from dlm_sampling.jobs import PromptItem, PromptSource, read_rows, to_item

MOST_TEXTS, MOST_CHARACTERS, MOST_BYTES = 100_000, 1 << 28, 1 << 30
"""Texts and characters that are read without a count, and bytes of a folder."""


def read_texts(
    path: str, option: str, column: str | None = None, count: int | None = None
) -> list[str]:
    """Return the texts of a file, of a folder of a data set, or of a data set on the hub.

    Lines of text, JSON lines, CSV, parquet and data sets, see `dlm_sampling.jobs.read_rows`.  What
    comes behind the last text that counts is not read.

    Args:
        path: file, folder, or name on the hub.
        option: the option that named it, for messages.
        column: the column of the text, "text" by default; lines of text have none.
        count: read the first ones; None reads all, if they are not too many.

    Raises:
        UsageError: it does not exist, holds no text or too much, or a row has none.
    """
    place = Path(path)
    if place.is_dir() and not any(place.iterdir()):
        raise UsageError(f"{option} {path}: the folder is empty.")
    if not place.exists() and place.suffix:
        raise UsageError(f"{option} {path}: there is no such file.")
    if place.is_file() and not place.stat().st_size:
        raise UsageError(f"{option} {path}: holds no text.")
    if place.is_dir() and _larger(place, MOST_BYTES):
        raise UsageError(
            f"{option} {path}: the folder holds more than {MOST_BYTES >> 30} GiB; name one of its "
            "files, which is read as far as it is needed."
        )
    lines = place.suffix == ".txt"
    source = PromptSource(path, column or (None if lines else "text"))
    found: list[str] = []
    characters = 0
    try:
        for row in read_rows(source):
            item = to_item(row.value, row.place, source.column)
            found.append(text_of(item, f"{option} {path}, text {len(found) + 1}"))
            characters += len(found[-1])
            if len(found) == count:
                break
            if count is None and (len(found) > MOST_TEXTS or characters > MOST_CHARACTERS):
                raise UsageError(
                    f"{option} {path}: holds more than {MOST_TEXTS} texts or "
                    f"{MOST_CHARACTERS >> 20} million characters; --samples N takes the first N."
                )
    except OSError as error:
        raise UsageError(f"{option} {path}: {error.strerror or error}.") from error
    if not found:
        raise UsageError(f"{option} {path}: holds no text.")
    return found


def _larger(folder: Path, limit: int) -> bool:
    """Return whether the files of a folder have more bytes; ends as soon as they have."""
    total = 0
    for size in _sizes(folder):
        total += size
        if total > limit:
            return True
    return False


def _sizes(folder: Path) -> Iterator[int]:
    for place, _, names in os.walk(folder):
        for name in names:
            file = Path(place) / name
            if file.is_file():
                yield file.stat().st_size


def text_of(item: PromptItem, place: str) -> str:
    """Return the text of a row.

    Raises:
        UsageError: the row has none, or it is no string.
    """
    if item.error is not None:
        raise UsageError(item.error)
    if not isinstance(item.prompt, str):
        raise UsageError(f"{place}: {item.prompt!r} is no text.")
    return item.prompt


def digest(texts: Sequence[str]) -> str:
    """Return 12 hexadecimal digits of the SHA-256 of texts in their order."""
    found = hashlib.sha256()
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        found.update(len(data).to_bytes(8, "little") + data)
    return found.hexdigest()[:12]

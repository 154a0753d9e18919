"""Read texts from files and data sets."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from dlm_sampling.errors import UsageError
from dlm_sampling.jobs import PromptItem, PromptSource, read_prompts


def read_texts(path: str, option: str, column: str | None = None) -> list[str]:
    """Return the texts of a file, of a folder of a data set, or of a data set on the hub.

    Lines of text, JSON lines, CSV, parquet and data sets, see `dlm_sampling.jobs.read_prompts`.

    Args:
        path: file, folder, or name on the hub.
        option: the option that named it, for messages.
        column: the column of the text, "text" by default; lines of text have none.

    Raises:
        UsageError: it does not exist, holds no text, or a row has none.
    """
    place = Path(path)
    if place.is_dir() and not any(place.iterdir()):
        raise UsageError(f"{option} {path}: the folder is empty.")
    if not place.exists() and place.suffix:
        raise UsageError(f"{option} {path}: there is no such file.")
    if place.is_file() and not place.stat().st_size:
        raise UsageError(f"{option} {path}: holds no text.")
    lines = place.suffix == ".txt"
    try:
        items = read_prompts(PromptSource(path, column or (None if lines else "text")))
    except OSError as error:
        raise UsageError(f"{option} {path}: {error.strerror or error}.") from error
    return [text_of(item, f"{option} {path}, text {i}") for i, item in enumerate(items, start=1)]


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

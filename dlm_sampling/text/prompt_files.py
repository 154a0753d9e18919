"""Read prompts from files, standard input and data sets."""

from __future__ import annotations

from collections.abc import Iterable
from typing import BinaryIO

from dlm_sampling.errors import UsageError
from dlm_sampling.text.prompt_items import PromptItem, check_names, to_item
from dlm_sampling.text.row_files import PromptSource as PromptSource
from dlm_sampling.text.row_files import Row, read_rows, rows_of


def read_prompts(source: PromptSource | str) -> list[PromptItem]:
    """Read all prompts of a file, of a folder of a data set, or of a data set on the hub.

    `read_rows` says which files there are.  A row with a wrong value has `error` set.

    Raises:
        UsageError: the file has another form, or holds no prompt; the message names the line.
        OSError: the file cannot be read.
    """
    source = PromptSource(source) if isinstance(source, str) else source
    return _prompts(read_rows(source), source.path, source.column)


def read_stream(
    file: BinaryIO, name: str, column: str | None = None, kind: str = ""
) -> list[PromptItem]:
    """Read the prompts of an open file, such as standard input.

    Args:
        file: the bytes.
        name: name of the source, for messages.
        column: see `PromptSource`.
        kind: the suffix that says what it holds; see `read_rows`.

    Raises:
        UsageError: the file has another form, or holds no prompt.
    """
    return _prompts(rows_of(file, name, column, kind), name, column)


def _prompts(rows: Iterable[Row], name: str, column: str | None) -> list[PromptItem]:
    """Return the prompts after checking that there are some, and that their ids differ."""
    found = [to_item(row.value, row.place, column) for row in rows]
    if not found:
        raise UsageError(f"No prompt in {name}: write one per line, or JSON lines with a 'prompt'.")
    check_names(found, name)
    return found

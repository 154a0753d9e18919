"""Read the texts whose likelihood is bounded: whole documents, or pairs of prompt and answer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlm_sampling.errors import UsageError, named, suggestion
from dlm_sampling.jobs import PromptSource, Row, read_rows


@dataclass(frozen=True)
class Document:
    """Hold one text; with a prompt, the two are one text of which a part is scored."""

    name: str
    text: str
    prompt: str | None = None


@dataclass(frozen=True)
class Columns:
    """Name the columns of a data set; None takes the usual names where they are there."""

    text: str | None = None
    prompt: str | None = None
    answer: str | None = None


USUAL = Columns("text", "prompt", "answer")


def read_documents(source: PromptSource, columns: Columns) -> list[Document]:
    """Read documents from a file, a folder of .txt files, a data set's folder or its hub name.

    A .txt file is one document.  A row of any other file is one document, from the columns
    "prompt" and "answer", else "text", or the columns that are named.

    Raises:
        UsageError: a column is missing, a value is no text, all texts are blank, or the file
            cannot be read.
    """
    path = Path(source.path)
    if path.is_dir() and not any(path.iterdir()):
        raise UsageError(f"--data {source.path}: the folder is empty.")
    texts = sorted(path.glob("*.txt")) if path.is_dir() else [path] if path.suffix == ".txt" else []
    try:
        plain = [Document(file.stem, file.read_text(encoding="utf-8")) for file in texts]
        found = plain or list(_documents(source, columns))
    except UnicodeDecodeError as error:
        raise UsageError(f"{source.path} is not UTF-8 text ({error.reason}).") from error
    except OSError as error:
        raise UsageError(f"--data {source.path}: {error.strerror or error}.") from error
    if not any(document.text.strip() for document in found):
        raise UsageError(f"--data {source.path}: there is no text in it.")
    return found


def digest_of(documents: Sequence[Document]) -> str:
    """Return 12 hexadecimal digits of the SHA-256 of prompts and texts, whatever the tokenizer."""
    rows = [[document.prompt, document.text] for document in documents]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:12]


def _documents(source: PromptSource, columns: Columns) -> Iterator[Document]:
    of_texts = False  # whether a row before had the column of texts: a later one without it errs
    for number, row in enumerate(read_rows(source), start=1):
        if isinstance(row.value, str):
            yield Document(str(number), row.value)
            continue
        if isinstance(row.value, UsageError):
            raise row.value
        if not isinstance(row.value, Mapping):
            raise UsageError(f"{row.place}: must be a text or an object with columns.")
        name = str(row.value.get("id", number))
        of_texts = of_texts or USUAL.text in row.value
        pair = {USUAL.prompt, USUAL.answer} & set(row.value)
        one_text = columns.text or USUAL.text in row.value or (of_texts and not pair)
        if columns.prompt or columns.answer or not one_text:
            prompt = _cell(row, columns.prompt or USUAL.prompt)
            yield Document(name, _cell(row, columns.answer or USUAL.answer), prompt)
        else:
            yield Document(name, _cell(row, columns.text or USUAL.text))


def _cell(row: Row, column: Any) -> str:
    if column not in row.value:
        known = [str(name) for name in row.value]
        hint = suggestion(column, known) or f"Its columns: {', '.join(known) or 'none'}."
        raise UsageError(
            f"{row.place} has no column '{column}'. {hint} Name one: --column TEXT, or "
            "--prompt-column and --answer-column."
        )
    value = row.value[column]
    if not isinstance(value, str):
        raise UsageError(f"{row.place}: column '{column}' is {named(value)}, not a text.")
    return value

"""The held-out split of the book corpus, shared by the training script and the judges."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Split:
    """Texts by name: what a model may see, and what it is judged on."""

    train: dict[str, str]
    held_out: dict[str, str]


def read_split(source: Path, books: Path) -> Split:
    """Read the books named by TRAIN_BOOKS and HELD_OUT_BOOKS in the Python file `source`.

    The file is parsed, never run: the two constants must be tuples of strings, each the start of
    the name of one text file in `books`.

    Raises:
        ValueError: a constant is missing or not a tuple of strings, or a book is listed twice.
        FileNotFoundError: no text file starts with a listed name.
    """
    names = _constants(source)
    both = [stem for stems in names.values() for stem in stems]
    if len(set(both)) != len(both):
        raise ValueError(
            f"{source}: a book is listed twice; a held-out book must not be trained on."
        )
    train, held_out = ({stem: _read(books, stem) for stem in stems} for stems in names.values())
    return Split(train, held_out)


def encode_book(tokenizer: Any, text: str) -> npt.NDArray[np.int64]:
    """Token ids of a whole book, int64 [T], with the tokenizer's end token (if any) last."""
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    return np.asarray([*ids, *end], dtype=np.int64)


def _constants(source: Path) -> dict[str, tuple[str, ...]]:
    """TRAIN_BOOKS and HELD_OUT_BOOKS of a Python file, in this order."""
    found: dict[str, Any] = {}
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            if name in ("TRAIN_BOOKS", "HELD_OUT_BOOKS"):
                found[name] = ast.literal_eval(node.value)
    for name in ("TRAIN_BOOKS", "HELD_OUT_BOOKS"):
        stems = found.get(name, ())
        if (
            not isinstance(stems, tuple)
            or not stems
            or not all(isinstance(stem, str) for stem in stems)
        ):
            raise ValueError(
                f"{source}: {name} must be a tuple of names of books, as in examples/train_tiny.py."
            )
    return {name: found[name] for name in ("TRAIN_BOOKS", "HELD_OUT_BOOKS")}


def _read(books: Path, stem: str) -> str:
    files = sorted(books.glob(f"{stem}*.txt"))
    if len(files) != 1:
        raise FileNotFoundError(
            f"{books}: {len(files)} text files start with {stem!r}, expected one; "
            "point --books at the folder of texts."
        )
    return files[0].read_text(encoding="utf-8")

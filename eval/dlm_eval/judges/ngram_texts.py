"""Judge texts by an n-gram model of a folder of books, in a model's own tokens."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from dlm_eval.judges.ngram import NGramJudge
from dlm_eval.judges.scores import TextScores
from dlm_eval.report.results import Json
from dlm_eval.tasks.books import encode_book
from dlm_sampling import Denoiser
from dlm_sampling.errors import UsageError

ORDER = 3


class NGramTexts:
    """An n-gram model with the tokenizer that its tokens come from; every token counts."""

    def __init__(self, judge: NGramJudge, tokenizer: Any, books: dict[str, str]) -> None:
        """Wrap a fitted judge; `fit_books` is the usual way here."""
        self.judge = judge
        self.tokenizer = tokenizer
        self.books = books

    @classmethod
    def fit_books(cls, folder: Path, denoiser: Denoiser) -> NGramTexts:
        """Fit a 3-gram judge of the model's tokens on the .txt files of a folder.

        Raises:
            UsageError: the folder holds no .txt file, or the model has no tokenizer.
        """
        books = {path.stem: path.read_text(encoding="utf-8") for path in books_of(folder)}
        if not books:
            raise UsageError(f"--judge {folder}: holds no .txt file to fit an n-gram judge on.")
        tokenizer: Any = denoiser.tokenizer
        if tokenizer is None:
            raise UsageError(f"--judge {folder}: the model has no tokenizer to read books with.")
        documents = [encode_book(tokenizer, text) for text in books.values()]
        judge = NGramJudge.fit(documents, order=ORDER, vocab_size=denoiser.vocab_size)
        return cls(judge, tokenizer, books)

    def facts(self, *, add_bos: bool = False) -> dict[str, Json]:
        """See `Judge`."""
        digest = sha256("\0".join(self.books.values()).encode()).hexdigest()[:12]
        return {
            "judge": f"{self.judge.order}-gram of the model's tokens",
            "judge_books": list(self.books),
            "judge_books_hash": digest,
            "tokens": "1..n",
        }

    def score(
        self, texts: Sequence[str], *, add_bos: bool = False, batch_size: int = 8
    ) -> TextScores:
        """See `Judge`; `add_bos` and `batch_size` have no effect."""
        encoded = self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        rows = [tuple(map(int, ids)) for ids in encoded]
        nll = np.array([-self.judge.log_probs(row).sum() if row else 0.0 for row in rows])
        return TextScores(nll, np.array([len(row) for row in rows], np.int64), tuple(rows))


def books_of(folder: Path) -> list[Path]:
    """Return the .txt files of a folder, in the order of their names."""
    return sorted(folder.glob("*.txt"))

"""Give a comparison its judge of texts: an n-gram model of a folder of books."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from dlm_eval.comparison.figures import Judge, Scores
from dlm_eval.judges.ngram import NGramJudge
from dlm_eval.report.results import Json
from dlm_eval.tasks.books import encode_book
from dlm_sampling import Denoiser
from dlm_sampling.errors import UsageError

ORDER = 3


@dataclass(frozen=True)
class LoadedJudge:
    """Hold a judge with all that identifies it, for the fingerprint of the protocol."""

    score: Judge
    facts: dict[str, Json]


@dataclass(frozen=True)
class CorpusScores:
    """Hold the negative log-likelihood in nats of each text, and the judge's tokens.

    perplexity = exp(sum of nll / sum of tokens), with the standard error of a ratio of means.
    """

    nll: tuple[float, ...]
    ids: tuple[tuple[int, ...], ...]

    def perplexity(self) -> float:
        """Return the perplexity of all texts.

        Raises:
            ValueError: no text has a token.
        """
        return math.exp(sum(self.nll) / self._tokens())

    def standard_error(self) -> float | None:
        """Return its standard error over texts, None for a single text."""
        n = len(self.nll)
        if n < 2:
            return None
        counts = np.array([len(row) for row in self.ids], np.float64)
        ratio = sum(self.nll) / self._tokens()
        spread = (np.array(self.nll) - ratio * counts).std(ddof=1)
        return float(spread * n**0.5 / self._tokens() * math.exp(ratio))

    def _tokens(self) -> int:
        total = sum(map(len, self.ids))
        if total == 0:
            raise ValueError("texts: none has a token; give the model more tokens to write.")
        return total


def load_ngram(folder: Path, denoiser: Denoiser) -> LoadedJudge:
    """Fit a 3-gram judge of the model's tokens on the .txt files of a folder.

    Raises:
        UsageError: the folder holds no .txt file, or the model has no tokenizer.
    """
    books = sorted(folder.glob("*.txt"))
    if not books:
        raise UsageError(f"--judge {folder}: must be a folder with .txt files, or none.")
    tokenizer: Any = denoiser.tokenizer
    if tokenizer is None:
        raise UsageError(f"--judge {folder}: the model has no tokenizer to read books with.")
    texts = [book.read_text(encoding="utf-8") for book in books]
    documents = [encode_book(tokenizer, text) for text in texts]
    judge = NGramJudge.fit(documents, order=ORDER, vocab_size=denoiser.vocab_size)

    def score(texts: Sequence[str]) -> Scores:
        encoded = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        rows = [np.asarray(ids, dtype=np.int64) for ids in encoded]
        nll = tuple(float(-judge.log_probs(row).sum()) if len(row) else 0.0 for row in rows)
        return CorpusScores(nll, tuple(tuple(ids) for ids in encoded))

    digest = sha256("\0".join(texts).encode()).hexdigest()[:12]
    facts: dict[str, Json] = {
        "judge": f"{ORDER}-gram of the model's tokens",
        "judge_books": [book.stem for book in books],
        "judge_books_hash": digest,
        "reduction": "corpus",
        "judged": "text without its prompt",
    }
    return LoadedJudge(score, facts)

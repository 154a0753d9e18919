"""Hold what a judge says of texts, and define what a judge is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from dlm_eval.report.results import Json
from dlm_sampling.errors import unknown_choice

Reduction: TypeAlias = Literal["corpus", "text"]


@dataclass(frozen=True)
class TextScores:
    """Hold what a judge says of texts, one entry for each text.

    Fields:
        nll: negative log-likelihood in nats, float64 [N]; 0 where nothing counts.
        counts: tokens that count, int64 [N]; 0 for a text of less than two tokens.
        ids: the judge's tokens of each text, within the limit.
        limit: longest text in tokens that the judge reads, None for any.
        cut: texts that are longer, of which the head is read.
    """

    nll: npt.NDArray[np.float64]
    counts: npt.NDArray[np.int64]
    ids: tuple[tuple[int, ...], ...]
    limit: int | None = None
    cut: int = 0

    @property
    def silent(self) -> int:
        """Return the number of texts without a token that counts."""
        return int((self.counts == 0).sum())

    def perplexity(self, reduction: Reduction = "corpus") -> float:
        """Return the perplexity of the texts.

        Args:
            reduction: "corpus" is exp(sum of nll / sum of counts), as published; "text" the mean
                of exp(nll / count) over texts, as the package `evaluate` has it.  Texts without a
                token that counts are left out of both.

        Raises:
            ValueError: no token counts, or another reduction.
        """
        nll, counts = self._heard(reduction)
        if reduction == "corpus":
            return float(np.exp(nll.sum() / counts.sum()))
        return float(np.exp(nll / counts).mean())

    def standard_error(self, reduction: Reduction = "corpus") -> float | None:
        """Return the standard error of `perplexity` over texts, None for a single text.

        For the corpus it is that of a ratio of means: with r = sum nll / sum counts,
        sd(nll - r count) sqrt(N) / sum counts, times the perplexity.
        """
        nll, counts = self._heard(reduction)
        if len(nll) < 2:
            return None
        if reduction == "text":
            return float(np.exp(nll / counts).std(ddof=1) / len(nll) ** 0.5)
        ratio = nll.sum() / counts.sum()
        spread = (nll - ratio * counts).std(ddof=1) * len(nll) ** 0.5 / counts.sum()
        return float(spread * np.exp(ratio))

    def _heard(self, reduction: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """Return the entries of texts with tokens that count."""
        if reduction not in ("corpus", "text"):
            raise unknown_choice("reduction", reduction, ("corpus", "text"))
        heard = self.counts > 0
        if not heard.any():
            raise ValueError(
                f"texts: none of the {len(self.counts)} texts has two tokens, so no token can be "
                "predicted from another; pass longer texts, or add_bos=True."
            )
        return self.nll[heard], self.counts[heard]


class Judge(Protocol):
    """Define a language model that reads texts."""

    def facts(self, *, add_bos: bool = False) -> dict[str, Json]:
        """Return all that changes a figure, for the fingerprint of a protocol."""
        ...

    def score(
        self, texts: Sequence[str], *, add_bos: bool = False, batch_size: int = 8
    ) -> TextScores:
        """Return the negative log-likelihood of texts.

        Args:
            texts: the texts; an empty one has no token that counts.
            add_bos: put the beginning in front, so that the first token counts too.
            batch_size: texts in one pass, where the judge is a network.
        """
        ...

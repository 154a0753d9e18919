"""An n-gram judge over token ids: builds in seconds, deterministic, needs nothing downloaded.

    python -m dlm_eval.judges.ngram --books PATH/TO/books --tokenizer PATH/TO/tokenizer

reports its bits per character on held-out books.  Interpolated absolute discounting: Ney, Essen and
Kneser 1994, "On structuring probabilistic dependences in stochastic language modelling".
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import typer
from tqdm import tqdm

from dlm_eval.program import check_result, start
from dlm_eval.tasks.books import Split, encode_book, read_split
from dlm_sampling.errors import UsageError

Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

DISCOUNT = 0.75


class NGramJudge:
    """An n-gram language model with interpolated absolute discounting.

        P_k(w | h) = max(c(h w) - D, 0) / c(h) + D * r(h) / c(h) * P_{k-1}(w | h'),   k = 1..order

    with h the previous k - 1 tokens, h' the same without its oldest token, c the counts in the
    training documents, r(h) the number of different tokens seen after h, and P_0 uniform over the
    vocabulary.  A history that was never seen leaves P_{k-1} as it is.  No n-gram spans documents.

    The counts are a trie: level k holds one entry per distinct k-gram, sorted by the key
    `parent * vocab_size + token`, `parent` being the entry of the k-gram's first k - 1 tokens.
    """

    def __init__(
        self, keys: list[Ids], counts: list[Ids], vocab_size: int, discount: float = DISCOUNT
    ) -> None:
        """Wrap finished counts; `fit` and `load` are the usual ways here."""
        self.vocab_size = vocab_size
        self.discount = discount
        self._keys = keys
        self._counts = counts
        parents = [key // vocab_size for key in keys]
        sizes = [1, *(len(key) for key in keys[:-1])]
        self._kinds = [np.bincount(p, minlength=n) for p, n in zip(parents, sizes, strict=True)]
        self._totals = [
            np.bincount(p, weights=c, minlength=n)
            for p, c, n in zip(parents, counts, sizes, strict=True)
        ]

    @property
    def order(self) -> int:
        """The longest n-gram, in tokens."""
        return len(self._keys)

    @classmethod
    def fit(
        cls,
        documents: Sequence[Sequence[int] | Ids],
        *,
        order: int = 3,
        vocab_size: int,
        discount: float = DISCOUNT,
        progress: bool = False,
    ) -> NGramJudge:
        """Count the n-grams of `documents`, each a sequence of ids in [0, vocab_size).

        Cost: one sort of the training ids per order, about a second for two million ids at order 3.

        Raises:
            ValueError: order < 1, discount outside [0, 1], no tokens, ids outside the vocabulary.
        """
        if order < 1:
            raise ValueError(f"order={order}: must be at least 1; try 3.")
        if not 0.0 <= discount <= 1.0:
            raise ValueError(f"discount={discount}: must be in [0, 1]; try {DISCOUNT}.")
        arrays = [_checked(document, vocab_size) for document in documents]
        ids = np.concatenate(arrays) if arrays else np.empty(0, np.int64)
        if not len(ids):
            raise ValueError(
                "documents: no tokens to count; pass at least one document that is not empty."
            )
        left = np.concatenate([np.arange(len(array)) for array in arrays])  # tokens before this one
        keys: list[Ids] = []
        counts: list[Ids] = []
        node = np.zeros(len(ids), np.int64)  # trie entry of the k - 1 tokens before each position
        for k in tqdm(
            range(1, order + 1), desc="n-grams", unit="order", disable=None if progress else True
        ):
            whole = left >= k - 1
            key, inverse, count = np.unique(
                node[whole] * vocab_size + ids[whole], return_inverse=True, return_counts=True
            )
            keys.append(key)
            counts.append(count)
            ending = np.zeros(len(ids), np.int64)  # entry of the k-gram that ends at each position
            ending[whole] = inverse
            node = np.concatenate([ending[:1], ending[:-1]])
        return cls(keys, counts, vocab_size, discount)

    def log_probs(self, ids: Sequence[int] | Ids) -> Floats:
        """Log-probability in nats of each token given the tokens before it in `ids`, float64 [T].

        The first tokens are predicted from as much history as there is.

        Raises:
            ValueError: an id outside the vocabulary.
        """
        tokens = _checked(ids, self.vocab_size)
        probs = np.full(len(tokens), 1.0 / self.vocab_size)
        for k in range(1, self.order + 1):
            history = self._walk(tokens, k - 1)
            probs[k - 1 :] = self._interpolate(k, history, tokens[k - 1 :], probs[k - 1 :])
        return np.log(probs)

    def distribution(self, context: Sequence[int] | Ids) -> Floats:
        """P(. | context), float64 [vocab_size]; only the last order - 1 tokens count."""
        history = _checked(context, self.vocab_size)
        probs = np.full(self.vocab_size, 1.0 / self.vocab_size)
        tokens = np.arange(self.vocab_size)
        for k in range(1, min(self.order, len(history) + 1) + 1):
            tail = history[len(history) - (k - 1) :]
            entry = np.zeros(1, np.int64)
            for depth, token in enumerate(tail):
                entry = self._child(depth, entry, np.array([token]))
            probs = self._interpolate(k, entry.repeat(self.vocab_size), tokens, probs)
        return probs

    def bits_per_char(self, ids: Sequence[int] | Ids, characters: int) -> float:
        """-log2 P(ids) / characters: comparable between tokenizers on the same text.

        Raises:
            ValueError: characters < 1.
        """
        if characters < 1:
            raise ValueError(
                f"characters={characters}: must be the length of the text behind `ids`, at least 1."
            )
        return float(-self.log_probs(ids).sum() / math.log(2) / characters)

    def perplexity(self, samples: Sequence[Sequence[int] | Ids]) -> float:
        """Judge's perplexity per token of samples, exp(-sum log P / tokens); nan without tokens.

        Lower is not better by itself: repetition lowers it (see `dlm_eval.judges.diversity`).
        """
        logs = np.concatenate([np.empty(0), *(self.log_probs(sample) for sample in samples)])
        return math.exp(-logs.mean()) if len(logs) else math.nan

    def save(self, path: Path | str) -> None:
        """Write the counts as .npz (arrays only, no pickle)."""
        arrays = {f"keys_{k}": key for k, key in enumerate(self._keys)}
        arrays |= {f"counts_{k}": count for k, count in enumerate(self._counts)}
        with Path(path).open("wb") as file:  # a path would get a suffix of numpy's choice
            np.savez_compressed(file, vocab_size=self.vocab_size, discount=self.discount, **arrays)

    @classmethod
    def load(cls, path: Path | str) -> NGramJudge:
        """Read what `save` wrote.

        Raises:
            ValueError: the file is not a saved judge.
        """
        with np.load(path, allow_pickle=False) as file:
            order = sum(name.startswith("keys_") for name in file.files)
            if not order or not {"vocab_size", "discount"} <= set(file.files):
                raise ValueError(
                    f"{path}: not a saved n-gram judge; write one with NGramJudge.save."
                )
            keys = [file[f"keys_{k}"] for k in range(order)]
            counts = [file[f"counts_{k}"] for k in range(order)]
            return cls(keys, counts, int(file["vocab_size"]), float(file["discount"]))

    def _child(self, depth: int, entry: Ids, token: Ids) -> Ids:
        """Entry of `entry` (at level `depth`) followed by `token`; -1 where never seen."""
        wanted = entry * self.vocab_size + token
        place = np.searchsorted(self._keys[depth], wanted).clip(max=len(self._keys[depth]) - 1)
        return np.where((entry >= 0) & (self._keys[depth][place] == wanted), place, -1)

    def _walk(self, tokens: Ids, length: int) -> Ids:
        """Trie entry of every run of `length` tokens that has a token after it, [T - length]."""
        runs = max(len(tokens) - length, 0)
        entry = np.zeros(runs, np.int64)
        for depth in range(length):
            entry = self._child(depth, entry, tokens[depth : depth + runs])
        return entry

    def _interpolate(self, k: int, history: Ids, tokens: Ids, lower: Floats) -> Floats:
        """P_k(tokens | history) from P_{k-1} = lower; all arrays have one entry per position."""
        seen = history >= 0
        entry = self._child(k - 1, history, tokens)
        count = np.where(entry >= 0, self._counts[k - 1][entry], 0)
        total = np.where(seen, self._totals[k - 1][history], 0.0)
        kinds = np.where(seen, self._kinds[k - 1][history], 0)
        known = total > 0
        total = np.where(known, total, 1.0)
        higher = (
            np.maximum(count - self.discount, 0.0) / total + self.discount * kinds / total * lower
        )
        return np.where(known, higher, lower)


def _checked(ids: Sequence[int] | Ids, vocab_size: int) -> Ids:
    """`ids` as int64 [T]; refuses ids outside the vocabulary."""
    array = np.asarray(ids, dtype=np.int64).reshape(-1)
    if len(array) and not (array.min() >= 0 and array.max() < vocab_size):
        raise ValueError(f"ids span [{array.min()}, {array.max()}]: must be in [0, {vocab_size}).")
    return array


def held_out_report(split: Split, tokenizer: Any, orders: Sequence[int]) -> dict[str, Any]:
    """Fit one judge per order on the training books and measure it on each held-out book.

    Every book is encoded as one document with the end token after it (if the tokenizer has one), as
    in the training of the embedded model; characters are those of the text.
    """
    vocab_size = len(tokenizer)
    train = [encode_book(tokenizer, text) for text in split.train.values()]
    held = {name: encode_book(tokenizer, text) for name, text in split.held_out.items()}
    report: dict[str, Any] = {
        "train_books": list(split.train),
        "train_tokens": sum(map(len, train)),
        "vocab_size": vocab_size,
        "discount": DISCOUNT,
        "held_out": {
            name: {"characters": len(text), "tokens": len(held[name])}
            for name, text in split.held_out.items()
        },
    }
    for order in orders:
        judge = NGramJudge.fit(train, order=order, vocab_size=vocab_size, progress=True)
        for name, text in split.held_out.items():
            report["held_out"][name][f"{order}-gram"] = {
                "nats_per_token": round(float(-judge.log_probs(held[name]).mean()), 4),
                "bits_per_char": round(judge.bits_per_char(held[name], len(text)), 4),
            }
    return report


def main(
    books: Annotated[Path, typer.Option(help="Folder of plain-text books.")],
    tokenizer: Annotated[Path, typer.Option(help="Folder of a fast tokenizer (tokenizer.json).")],
    split: Annotated[
        Path,
        typer.Option(
            help="Python file that defines TRAIN_BOOKS and HELD_OUT_BOOKS; it is read, not run."
        ),
    ] = Path("examples/train_tiny.py"),
    order: Annotated[
        list[int] | None, typer.Option(help="Orders to report; repeat the option.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Result file (JSON).")] = Path("runs/ngram_books.json"),
) -> None:
    """Report the bits per character of n-gram judges on held-out books."""
    from transformers import PreTrainedTokenizerFast

    check_result(out)
    if not (tokenizer / "tokenizer.json").is_file():
        raise UsageError(f"--tokenizer {tokenizer}: holds no tokenizer.json.")
    loaded = PreTrainedTokenizerFast.from_pretrained(tokenizer)
    report = held_out_report(read_split(split, books), loaded, order or [3, 5])
    out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    typer.echo(json.dumps(report["held_out"], indent=1))
    typer.echo(f"Wrote {out}")


if __name__ == "__main__":
    start(main)

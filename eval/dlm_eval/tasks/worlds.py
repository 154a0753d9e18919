"""The two worlds of `compare_samplers`: 4x4 sudoku and text after a held-out prompt.

A world is small enough to be sent to a worker process; it lists its cells, fills the canvases of a
cell, and scores what came out.
"""

from __future__ import annotations

import hashlib
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dlm_eval.comparison.cells import Budgets, Cell, cells_of, laws_of
from dlm_eval.judges.diversity import distinct_n, repeat_rate, unigram_entropy
from dlm_eval.judges.ngram import NGramJudge
from dlm_eval.tasks.books import encode_book, read_split
from dlm_sampling import AutoDenoiser, sample, samplers
from dlm_sampling.denoisers import Denoiser
from dlm_sampling.embedded import embedded_path
from dlm_sampling.samplers import TokenFrequencies
from dlm_sampling.testing.sudoku import CELLS, MASK, SudokuOracle, all_grids, is_valid

SUDOKU_MODEL = "sudoku4x4"
TEXT_MODEL = "tiny-books"
CLUES = (0, 5)
GRIDS, TEXTS = 400, 16
JUDGE_ORDER = 3
SUDOKU_BUDGETS = Budgets((4, 8, 16), (32,), (32, 128))
TEXT_BUDGETS = Budgets((4, 8, 16, 32, 64), (128,), (128, 512))
NEEDS_FREQUENCIES = ("pc-sampler", "pc-linear")


@cache
def denoiser(name: str) -> Denoiser:
    """An embedded model, or the exact oracle under the name "oracle"."""
    return SudokuOracle() if name == "oracle" else AutoDenoiser.from_pretrained(embedded_path(name))


def fingerprint(name: str) -> str:
    """First 16 digits of the SHA-256 of an embedded model's weights."""
    weights = (embedded_path(name) / "model.safetensors").read_bytes()
    return hashlib.sha256(weights).hexdigest()[:16]


def clock() -> tuple[float, float]:
    """Seconds: by the clock, and of processor time of this process."""
    return time.perf_counter(), time.process_time()


@dataclass(frozen=True)
class World(ABC):
    """Canvases to fill and a measure of the result.

    Fields:
        samples: rows per cell.
        seed: row i draws from seed + i in every cell, so that cells are compared row by row.
        budgets: planned steps.
    """

    samples: int
    budgets: Budgets
    seed: int = 0

    name = ""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Everything the numbers depend on, besides the sampler; ready for JSON."""

    @abstractmethod
    def cells(self, names: Sequence[str]) -> list[Cell]:
        """What is measured of the samplers `names`."""

    @abstractmethod
    def canvas(self, task: str) -> tuple[Denoiser, Tensor, Tensor]:
        """Denoiser, tokens [B, L] and editable positions [B, L] of a task."""

    @abstractmethod
    def score(self, task: str, tokens: Tensor) -> dict[str, Any]:
        """The quality of finished canvases; ready for JSON."""

    def options(self, cell: Cell) -> dict[str, Any]:
        """Parameters of the sampler in this world."""
        return cell.options

    def suppressed(self) -> tuple[int, ...]:
        """Ids that are never drawn."""
        return ()

    def run(self, cell: Cell) -> tuple[Tensor, dict[str, Any]]:
        """Fill the canvases of a cell; returns the tokens, and NFE and times."""
        model, tokens, editable = self.canvas(cell.task)
        wall, cpu = clock()
        out = sample(
            model,
            samplers.create(cell.sampler, **self.options(cell)),
            tokens,
            editable,
            seeds=range(self.seed, self.seed + len(tokens)),
            steps=cell.steps,
            law=replace(cell.token_law(), suppressed=self.suppressed()),
        )
        done = clock()
        cost = {"wall": round(done[0] - wall, 3), "cpu": round(done[1] - cpu, 3)}
        return out.tokens, {"nfe": round(float(out.nfe.double().mean()), 2), **cost}


@dataclass(frozen=True)
class SudokuWorld(World):
    """Grids from nothing and from five clues, by the embedded model and by the exact oracle."""

    samples: int = GRIDS
    budgets: Budgets = SUDOKU_BUDGETS

    name = "sudoku"

    def settings(self) -> dict[str, Any]:
        """See the base class."""
        return {
            "samples": self.samples,
            "seed": self.seed,
            "budgets": asdict(self.budgets),
            "model": SUDOKU_MODEL,
            "weights": fingerprint(SUDOKU_MODEL),
        }

    def cells(self, names: Sequence[str]) -> list[Cell]:
        """Greedy laws only from clues: without them all rows would be one and the same grid."""
        return [
            cell
            for name in names
            for law in laws_of(name)
            for task in sudoku_tasks()
            if law != "greedy" or "0 clues" not in task
            for cell in cells_of(name, law, task, self.name, self.budgets)
        ]

    def canvas(self, task: str) -> tuple[Denoiser, Tensor, Tensor]:
        """The same grids and clues for the model and the oracle."""
        who, clues = task.split(", ")
        generator = torch.Generator().manual_seed(self.seed)
        grids = all_grids()
        x = grids[torch.randint(len(grids), (self.samples,), generator=generator)]
        rank = torch.rand(x.shape, generator=generator).argsort(dim=1).argsort(dim=1)
        editable = rank < CELLS - int(clues.split()[0])
        model = denoiser("oracle" if who == "oracle" else SUDOKU_MODEL)
        return model, x.masked_fill(editable, MASK), editable

    def score(self, task: str, tokens: Tensor) -> dict[str, Any]:
        """Valid grids, and how many different ones are among them."""
        good = tokens[is_valid(tokens)]
        return {"valid": len(good), "distinct": len(set(map(tuple, good.tolist())))}


def sudoku_tasks() -> list[str]:
    """Who fills what."""
    return [f"{who}, {clues} clues" for who in ("model", "oracle") for clues in CLUES]


@dataclass(frozen=True, kw_only=True)
class TextWorld(World):
    """The start of a passage from a held-out book; the model writes on.

    Fields:
        prompts: int64 [B, P], from books that neither model nor judge has seen.
        continuations: int64 [B, new], how the books go on.
        counts: int64 [V], token counts of the model's training books, for PC-Sampler.
        judge: fitted on books that the model has not seen; None in worker processes.
        facts: settings that come from the books.
    """

    prompts: Tensor
    continuations: Tensor
    counts: Tensor
    judge: NGramJudge | None = None
    facts: tuple[tuple[str, Any], ...] = ()

    name = "text"

    def settings(self) -> dict[str, Any]:
        """See the base class."""
        return {
            "samples": self.samples,
            "seed": self.seed,
            "budgets": asdict(self.budgets),
            "prompt tokens": self.prompts.shape[1],
            "new tokens": self.continuations.shape[1],
            "model": TEXT_MODEL,
            "weights": fingerprint(TEXT_MODEL),
            **dict(self.facts),
        }

    def cells(self, names: Sequence[str]) -> list[Cell]:
        """Every law of every sampler."""
        return [
            cell
            for name in names
            for law in laws_of(name)
            for cell in cells_of(name, law, "prompted", self.name, self.budgets)
        ]

    def canvas(self, task: str) -> tuple[Denoiser, Tensor, Tensor]:
        """Prompts with the new tokens masked."""
        model = denoiser(TEXT_MODEL)
        new = torch.full_like(self.continuations, model.mask_token_id or 0)
        tokens = torch.cat((self.prompts, new), dim=1)
        editable = torch.arange(tokens.shape[1]) >= self.prompts.shape[1]
        return model, tokens, editable.expand(tokens.shape)

    def options(self, cell: Cell) -> dict[str, Any]:
        """Background frequencies where a sampler wants them."""
        if cell.sampler not in NEEDS_FREQUENCIES:
            return cell.options
        table = TokenFrequencies(self.counts, int(self.counts.sum()))
        return {"frequencies": table, **cell.options}

    def suppressed(self) -> tuple[int, ...]:
        """End of text and padding: every row has the same number of tokens to judge."""
        model = denoiser(TEXT_MODEL)
        return tuple(i for i in (model.eos_token_id, model.pad_token_id) if i is not None)

    def score(self, task: str, tokens: Tensor) -> dict[str, Any]:
        """Judge's nats per new token and entropy, per row; diversity of all rows."""
        if self.judge is None:
            raise ValueError("judge is None: score where the judge was fitted.")
        first = self.prompts.shape[1]
        rows = tokens.numpy()
        new = [row[first:] for row in rows]
        nats = [float(-self.judge.log_probs(row)[first:].mean()) for row in rows]
        return {
            "nats": [round(value, 4) for value in nats],
            "entropy": [round(unigram_entropy([row]), 4) for row in new],
            "distinct-2": round(distinct_n(new, 2), 4),
            "repeat-4": round(repeat_rate(new, 4), 4),
        }

    def reference(self) -> dict[str, Any]:
        """Score of how the books really go on."""
        return self.score("prompted", torch.cat((self.prompts, self.continuations), dim=1))


def text_world(
    books: Path,
    split_file: Path,
    *,
    samples: int = TEXTS,
    prompt_tokens: int = 16,
    new_tokens: int = 64,
    budgets: Budgets = TEXT_BUDGETS,
) -> TextWorld:
    """Cut prompts from the held-out books and fit the judge on the books outside the split.

    Prompt i is taken from held-out book i mod K, at evenly spaced places.

    Raises:
        ValueError: no book is left for the judge.
    """
    tokenizer = denoiser(TEXT_MODEL).tokenizer
    split = read_split(split_file, books)
    known = tuple(chain(split.train, split.held_out))
    judged = [path for path in sorted(books.glob("*.txt")) if not path.name.startswith(known)]
    if not judged:
        raise ValueError(f"{books}: every text is in the split; the judge needs books of its own.")
    held = [encode_book(tokenizer, text) for text in split.held_out.values()]
    whole = np.stack(
        [_passage(held, i, samples, prompt_tokens + new_tokens) for i in range(samples)]
    )
    documents = [encode_book(tokenizer, path.read_text(encoding="utf-8")) for path in judged]
    size = denoiser(TEXT_MODEL).vocab_size
    train = np.concatenate([encode_book(tokenizer, text) for text in split.train.values()])
    passages = torch.from_numpy(whole)
    return TextWorld(
        samples=samples,
        prompts=passages[:, :prompt_tokens],
        continuations=passages[:, prompt_tokens:],
        counts=torch.from_numpy(np.bincount(train, minlength=size)),
        judge=NGramJudge.fit(documents, order=JUDGE_ORDER, vocab_size=size),
        facts=(
            ("prompts from", list(split.held_out)),
            ("judge order", JUDGE_ORDER),
            ("judge tokens", sum(map(len, documents))),
            ("judge books", [path.stem for path in judged]),
        ),
        budgets=budgets,
    )


def _passage(books: list[Any], row: int, rows: int, length: int) -> Any:
    """Row's place in its book, away from the title pages and the end."""
    book = books[row % len(books)]
    start = int((row // len(books) + 1) * len(book) / (-(-rows // len(books)) + 1))
    return book[min(start, len(book) - length) :][:length]

"""Steer the embedded models by a reward in four ways, and count the passes of a finished text.

plain        one run
best of n    n runs, the row with the largest reward
particles    K particles, Feynman-Kac steering, one of them drawn by its weight
candidates   SVDD: M candidates of every step, each valued by the reward of its filled canvas
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dlm_eval.data import held_out_books
from dlm_eval.judges.ngram import NGramJudge
from dlm_eval.tasks.books import encode_book
from dlm_sampling import Denoiser, sample, samplers
from dlm_sampling.guidance import BestOf
from dlm_sampling.smc import RewardTarget, best_of, sample_particles
from dlm_sampling.testing.sudoku import is_valid
from dlm_sampling.types import TokenLaw

Record = dict[str, Any]
SAMPLER = samplers.create("llada-random")
UNITS = torch.tensor(
    [[r * 4 + c for c in range(4)] for r in range(4)]
    + [[r * 4 + c for r in range(4)] for c in range(4)]
    + [[r * 4 + c for r in (a, a + 1) for c in (b, b + 1)] for a in (0, 2) for b in (0, 2)]
)


class Task(NamedTuple):
    """A model, a reward, and what is reported of the texts."""

    denoiser: Denoiser
    length: int
    reward: Callable[[Tensor], Tensor]
    scale: float
    report: Callable[[Tensor], Record]


def broken_units(grids: Tensor) -> Tensor:
    """Return how many of the 12 rows, columns and boxes lack a digit, float64 [n]."""
    cells = grids[:, UNITS]
    digits = torch.arange(4)
    return (~(cells.unsqueeze(3) == digits).any(2).all(2)).sum(1).double()


def sudoku(denoiser: Denoiser, scale: float) -> Task:
    """Sudoku from nothing but the reward: minus the broken units."""

    def report(grids: Tensor) -> Record:
        return {
            "valid": float(is_valid(grids).double().mean()),
            "different": len(torch.unique(grids, dim=0)),
        }

    return Task(denoiser, 16, lambda grids: -broken_units(grids), scale, report)


def long_texts(denoiser: Denoiser, length: int, scale: float) -> Task:
    """Texts of a given number of tokens with many letters; how likely they are is reported."""
    tokenizer: Any = denoiser.tokenizer
    books = [encode_book(tokenizer, text) for text in held_out_books().values()]
    judge = NGramJudge.fit(books, order=3, vocab_size=denoiser.vocab_size)

    def letters(rows: Tensor) -> Tensor:
        texts = [tokenizer.decode(row) for row in rows.tolist()]
        return torch.tensor([sum(c.isalpha() for c in text) for text in texts]).double()

    def report(rows: Tensor) -> Record:
        ids = [np.array(row, np.int64) for row in rows.tolist()]
        bits = -np.mean([judge.log_probs(row).sum() for row in ids]) / np.log(2.0)
        return {
            "letters": float(letters(rows).mean()),
            "bits_per_token": float(bits) / length,
            "example": tokenizer.decode(rows[0].tolist()),
        }

    return Task(denoiser, length, letters, scale, report)


def _canvas(task: Task, rows: int) -> tuple[Tensor, Tensor]:
    empty = torch.full((rows, task.length), int(task.denoiser.mask_token_id or 0))
    return empty, torch.ones_like(empty, dtype=torch.bool)


def plain(task: Task, rows: int, steps: int, count: int) -> tuple[Tensor, float]:
    """Return the best of `count` runs of each row, and the passes per text; count 1 is plain."""
    out = sample(
        task.denoiser, SAMPLER, *_canvas(task, rows * count), seeds=range(rows * count),
        steps=steps, law=TokenLaw(),
    )  # fmt: skip
    many = out.tokens.view(rows, count, -1)
    chosen = best_of(task.reward(out.tokens).view(rows, count))
    return many[torch.arange(rows), chosen], float(out.nfe.sum()) / rows


def particles(task: Task, rows: int, steps: int, count: int) -> tuple[Tensor, float]:
    """Return one of `count` particles of each row, and the passes per text."""
    out = sample_particles(
        task.denoiser, SAMPLER, *_canvas(task, rows), RewardTarget(task.reward, task.scale),
        particles=count, seeds=range(rows), steps=steps,
    )  # fmt: skip
    return out.draw(), float(out.nfe.sum()) / rows


def candidates(task: Task, rows: int, steps: int, count: int) -> tuple[Tensor, float]:
    """Return the texts of SVDD with `count` candidates, and the passes per text."""
    out = sample(
        task.denoiser, SAMPLER, *_canvas(task, rows), seeds=range(rows), steps=steps,
        law=TokenLaw(), guidance=BestOf(task.reward, count, 1.0 / task.scale),
    )  # fmt: skip
    return out.tokens, float(out.nfe.sum()) / rows


METHODS: dict[str, Callable[[Task, int, int, int], tuple[Tensor, float]]] = {
    "best of n": plain,
    "particles": particles,
    "candidates": candidates,
}


def measure(task: Task, method: str, rows: int, steps: int, count: int) -> Record:
    """Return one record: what the texts reach, and the forward passes that one of them costs."""
    tokens, passes = METHODS[method](task, rows, steps, count)
    return {
        "method": "plain" if count == 1 else method, "steps": steps, "count": count,
        "passes": passes, "reward": float(task.reward(tokens).mean()), **task.report(tokens),
    }  # fmt: skip

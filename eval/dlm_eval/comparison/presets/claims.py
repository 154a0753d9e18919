"""Plan the preset "claims": what papers say of their samplers, on the embedded models.

The parts are small enough to be repeated on one core in about an hour, and large enough to decide:
128 texts or 512 grids in every setting, 1024 texts where solvers differ by little, or as many as
are asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch

from dlm_eval.comparison.float32 import Float32Ancestral
from dlm_eval.comparison.part import Part, Weights
from dlm_eval.comparison.settings import Law, Setting
from dlm_eval.comparison.tasks import SudokuTask, Task, book_task
from dlm_eval.data import held_out_books
from dlm_eval.tasks.books import encode_book
from dlm_eval.text.judging import JudgeOptions
from dlm_sampling import AutoDenoiser, Denoiser, samplers
from dlm_sampling.samplers import KLASS, TokenFrequencies

TEXTS, SOLVER_TEXTS, NEW_TOKENS, GRIDS, CLUES = 128, 1024, 32, 512, 5
BATCH_TEXTS = 32
PLAIN, GREEDY = Law(1.0), Law(0.0)
NUCLEUS = Law(1.0, 0.9, "exclude")
"""The law of ReMDM's experiments, with its released rule for the crossing token."""

REMDM_TEXTS = (8, 16, 32, 64, 128, 512), (32, 64, 128, 512)
REMDM_GRIDS = (4, 8, 16, 32, 48, 64, 384), (16, 32, 48, 64, 384)
"""Steps of ReMDM, and those of its second rule.  A step that changes nothing costs no pass, so that
it takes the last of them to come to about four passes for each token."""

BOOKS_MODEL, SUDOKU_MODEL = Weights("tiny-books"), Weights("sudoku4x4")


def parts(samples: int | None) -> tuple[Part, ...]:
    """Return the comparisons, the cheap ones first."""
    frequencies = book_frequencies()
    grids, texts = samples or GRIDS, samples or TEXTS
    decoders = _decoders((2, 4, 6, 8, 11), SUDOKU_SWEEPS, None)
    return (
        _sudoku("sudoku-decoders", CLUES, grids, decoders),
        _sudoku("sudoku-remdm", 0, grids, _remdm(*REMDM_GRIDS, PLAIN)),
        _sudoku("sudoku-solvers", 0, grids, _solvers((4, 8, 16))),
        _text("text-decoders", texts, _decoders((4, 8, 16, 32), TEXT_SWEEPS, frequencies)),
        _text("text-float32", texts, _float32((1024, 16384))),
        _text("text-solvers", samples or SOLVER_TEXTS, _solvers((8, 16, 32))),
        _text("text-remdm", texts, _remdm(*REMDM_TEXTS, NUCLEUS)),
    )


Sweeps = dict[str, tuple[str, tuple[float, ...]]]
SUDOKU_SWEEPS: Sweeps = {
    "eb-sampler": ("gamma", (0.01, 0.1, 0.5, 1.0, 2.0)),
    "klass": ("conf_threshold", (0.9, 0.7, 0.5, 0.3)),
    "klass, KL below 1": ("conf_threshold", (0.9, 0.7, 0.5, 0.3)),
    "ccd": ("expand_ratio", (1.0, 4.0, 16.0)),
}
TEXT_SWEEPS: Sweeps = {
    "eb-sampler": ("gamma", (3.0, 10.0, 30.0, 60.0)),
    "klass": ("conf_threshold", (0.1,)),
    "klass, KL below 1": ("conf_threshold", (0.3, 0.1, 0.05, 0.02)),
    "ccd": ("expand_ratio", (1.0, 4.0, 16.0)),
}
"""The small model is less sure of its words than the models of the papers, so that KLASS has a
second group, whose laws may change by a whole nat."""
WIDE_KLASS = "klass, KL below 1"


def _text(name: str, texts: int, settings: Sequence[Setting]) -> Part:
    def task(denoiser: Denoiser) -> Task:
        return book_task(denoiser, texts, NEW_TOKENS)

    return Part(name, BOOKS_MODEL, task, tuple(settings), texts, BATCH_TEXTS, judge=JudgeOptions())


def _sudoku(name: str, clues: int, grids: int, settings: Sequence[Setting]) -> Part:
    def task(denoiser: Denoiser) -> Task:
        return SudokuTask(grids, clues)

    return Part(name, SUDOKU_MODEL, task, tuple(settings), grids, GRIDS)


def _solvers(budgets: Sequence[int]) -> list[Setting]:
    """Return the solvers of the reverse process at equal budgets.

    Euler's step is the ancestral one on masks with the linear schedule, so that it is not run.
    """
    names = ("theta-trapezoidal", "tau-leaping", "ancestral")
    return [Setting(name, PLAIN, steps) for name in names for steps in budgets]


def _remdm(budgets: Sequence[int], capped: Sequence[int], law: Law) -> list[Setting]:
    """Return MDLM's sampler, and ReMDM with the settings of its paper.

    Below one step for each token the cap with eta 0.04, from there on the loop with eta 0.02; and
    the cap with eta 0.02 at the budgets `capped`, the first of which is one step for each token.
    """
    few = [steps for steps in budgets if steps < capped[0]]
    many = [steps for steps in budgets if steps >= capped[0]]
    found = [Setting("ancestral", law, steps) for steps in budgets]
    found += [_cap(0.04, law, steps) for steps in few]
    found += [Setting("remdm-loop", law, steps) for steps in many]
    return found + [_cap(0.02, law, steps) for steps in capped]


def _float32(grids: Sequence[int]) -> list[Setting]:
    """Return exact draws, and those of released code in float32 on finer and finer time grids."""
    found = [Setting("ancestral", PLAIN, NEW_TOKENS)]
    for grid in grids:
        sampler = Float32Ancestral(grid=grid)
        found.append(Setting(f"float32, grid {grid}", PLAIN, NEW_TOKENS, instance=sampler))
    return found


def _cap(eta: float, law: Law, steps: int) -> Setting:
    sampler = samplers.create("remdm-cap", eta=eta)
    return Setting(f"remdm-cap {eta:g}", law, steps, instance=sampler)


def _decoders(
    budgets: Sequence[int], sweeps: Sweeps, frequencies: TokenFrequencies | None
) -> list[Setting]:
    """Return the decoders that claim speed or quality, and the rules they claim it against.

    Without frequencies, so on grids, the random order is there as well.
    """
    plain = (
        ("llada", "llada-entropy") if frequencies else ("llada", "llada-entropy", "llada-random")
    )
    calibrated = samplers.create("pc-sampler", frequencies=frequencies)
    found = [Setting(name, GREEDY, steps) for name in (*plain, "ccd") for steps in budgets]
    found += [Setting("pc-sampler", GREEDY, steps, instance=calibrated) for steps in budgets]
    for name, (option, values) in sweeps.items():
        for value in values:
            instance = KLASS(value, kl_threshold=1.0) if name == WIDE_KLASS else None
            found.append(Setting(name, GREEDY, None, (option, value), instance))
    return found


@cache
def book_frequencies() -> TokenFrequencies:
    """Count the tokens of the held-out books for PC-Sampler."""
    denoiser = AutoDenoiser.from_pretrained(BOOKS_MODEL.name)
    books = [encode_book(denoiser.tokenizer, text) for text in held_out_books().values()]
    counts = np.bincount(np.concatenate(books), minlength=denoiser.vocab_size)
    return TokenFrequencies(torch.from_numpy(counts), int(counts.sum()))

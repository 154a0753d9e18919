"""Plan the presets "samplers" and "uniform": every sampler on the embedded models.

They show where a sampler stands, with few texts in every setting, or as many as are asked for; the
preset "claims" has enough to decide.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dlm_eval.comparison.part import Part, Weights
from dlm_eval.comparison.presets.claims import (
    BATCH_TEXTS,
    BOOKS_MODEL,
    SUDOKU_MODEL,
    book_frequencies,
)
from dlm_eval.comparison.settings import Law, Setting
from dlm_eval.comparison.sweeps import SWEEPS, own_law
from dlm_eval.comparison.tasks import SudokuTask, Task, book_task
from dlm_eval.text.judging import JudgeOptions
from dlm_sampling import Denoiser, samplers

TEXTS, UNIFORM_TEXTS, NEW_TOKENS, GRIDS, CLUES = 16, 128, 16, 128, 5
BASELINES = {"plain": ("ancestral", "llada"), "greedy": ("llada",), "nucleus": ("ancestral",)}
"""Samplers that others are compared with, by law; they run at more budgets."""
PRESET_LAWS = {
    "plain": Law(1.0),
    "greedy": Law(0.0),
    "nucleus": Law(1.0, 0.9, "exclude"),
}
NEED_FREQUENCIES = ("pc-sampler", "pc-linear")
UNIFORM_MODEL = Weights("tiny-books-uniform")
JUDGE = JudgeOptions(features="none")


OF_BLOCKS = ("fast-dllm-v2",)
"""Samplers of one block at a time that are meant for the blocks of a network."""


def samplers_parts(samples: int | None) -> tuple[Part, ...]:
    """Return every sampler of masks under its own law, and on grids under the plain law too."""
    everyone = running_on("absorbing")
    plain, greedy, nucleus = (
        [name for name in everyone if own_law(name) == law or name in BASELINES[law]]
        for law in ("plain", "greedy", "nucleus")
    )
    return (
        _grids("grids-plain", 0, samples, everyone, "plain"),
        _grids("grids-clues-greedy", CLUES, samples, greedy, "greedy"),
        _texts("texts-nucleus", BOOKS_MODEL, samples, nucleus, "nucleus"),
        _texts("texts-plain", BOOKS_MODEL, samples, plain, "plain"),
        _texts("texts-greedy", BOOKS_MODEL, samples, greedy, "greedy"),
    )


def uniform_parts(samples: int | None) -> tuple[Part, ...]:
    """Return every sampler of uniform noise, under the plain law."""
    texts, names = samples or UNIFORM_TEXTS, running_on("uniform")
    return (_texts("texts-uniform", UNIFORM_MODEL, texts, names, "plain"),)


def running_on(noise: str) -> list[str]:
    """Return the names of the samplers that run on a noise process and need no further blocks.

    Texts and grids of these presets are one block, on which a pipeline of blocks is another sampler
    ("d2f" is "fast-dllm"), as is one that begins each block of a network by itself.
    """
    found = samplers.available().items()
    return [
        name
        for name, entry in found
        if noise in entry.runs_on and entry.build().pipeline is None and name not in OF_BLOCKS
    ]


def _grids(name: str, clues: int, samples: int | None, names: Sequence[str], law: str) -> Part:
    grids = samples or GRIDS

    def task(_: Denoiser) -> Task:
        return SudokuTask(grids, clues)

    settings = tuple(_settings(names, law, (4, 16), (2, 8, 32), "sudoku"))
    return Part(name, SUDOKU_MODEL, task, settings, grids, GRIDS)


def _texts(
    name: str, weights: Weights, samples: int | None, names: Sequence[str], law: str
) -> Part:
    texts = samples or TEXTS

    def task(denoiser: Denoiser) -> Task:
        return book_task(denoiser, texts, NEW_TOKENS)

    settings = tuple(_settings(names, law, (4, 16), (2, 8, 64), "text"))
    return Part(name, weights, task, settings, texts, BATCH_TEXTS, judge=JUDGE)


def _settings(
    names: Sequence[str], law: str, budgets: Sequence[int], more: Sequence[int], world: str
) -> Iterator[Setting]:
    """Yield the budgets or the swept parameter of every sampler; more budgets of baselines.

    A sampler whose passes the planned steps bound runs at the budgets, as the others do.
    """
    drawn = PRESET_LAWS[law]
    frequencies = book_frequencies() if world == "text" else None
    for name in names:
        sweep = SWEEPS.get(name)
        if sweep is not None and not sweep.bound:
            for value in sweep.values[world]:
                yield Setting(name, drawn, sweep.steps, (sweep.option, value))
            continue
        instance = (
            samplers.create(name, frequencies=frequencies) if name in NEED_FREQUENCIES else None
        )
        for steps in sorted({*budgets, *(more if name in BASELINES[law] else ())}):
            yield Setting(name, drawn, steps, instance=instance)

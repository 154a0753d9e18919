"""Plan the preset "lsd" and write its page: solvers with learned coefficients, on texts.

The coefficients are those of `dlm_eval.lsd.learned`, which stand in a file beside it.
"""

from __future__ import annotations

from collections.abc import Iterator

from dlm_eval.comparison.part import Part
from dlm_eval.comparison.presets.claims import (
    BATCH_TEXTS,
    BOOKS_MODEL,
    NEW_TOKENS,
    PLAIN,
)
from dlm_eval.comparison.presets.differences import (
    ERRORS,
    FEWEST_TEXTS,
    Difference,
    difference,
)
from dlm_eval.comparison.presets.picture import by_sampler
from dlm_eval.comparison.presets.summary import PartFigures, Summary
from dlm_eval.comparison.presets.tables import table_of
from dlm_eval.comparison.settings import Setting
from dlm_eval.comparison.tasks import Task, book_task
from dlm_eval.lsd import page
from dlm_eval.lsd.learned import SOLVER, learned_solvers, read_result
from dlm_eval.text.judging import JudgeOptions
from dlm_sampling import Denoiser

TEXTS = 128
JUDGE = JudgeOptions(features="none")


def parts(samples: int | None) -> tuple[Part, ...]:
    """Return the one comparison: every solver with and without what was learned for it."""
    count = samples or TEXTS

    def task(denoiser: Denoiser) -> Task:
        return book_task(denoiser, count, NEW_TOKENS)

    settings = tuple(
        Setting(f"{base}: {method}", PLAIN, steps, instance=solver)
        for base, method, steps, solver in learned_solvers()
        if steps < NEW_TOKENS
    )
    return (Part("texts", BOOKS_MODEL, task, settings, count, BATCH_TEXTS, judge=JUDGE),)


def render(summary: Summary) -> str:
    """Return the page."""
    (part,) = summary.parts
    learned = read_result()
    gaps = list(_gaps(part))
    told = [f"- {name}, {steps} steps: {gap} ({gap.outcome})" for name, steps, gap in gaps]
    counts = {word: sum(gap.outcome == word for *_, gap in gaps) for word in page.OUTCOMES}
    errors = [ERRORS * gap.error for *_, gap in gaps]
    texts = [
        "## Texts",
        "",
        f"`{part.model}` continues {part.samples} passages of held-out books by {NEW_TOKENS}",
        "tokens, at temperature 1; the shipped judge reads the continuation alone (corpus",
        f"perplexity, its tokens 2..n). {page.learning_of(learned)}",
        "",
        "Against the solver itself at equal steps; text i has the same prompt and seed in every",
        "setting, and the error is that of the differences of texts. *Better* and *worse* are",
        "beyond two of them, *less varied* is a lower perplexity with a lower entropy:",
        "",
        *told,
        "",
        f"Of {len(gaps)} comparisons {counts['better']} are better, {counts['less varied']} less",
        f"varied, {counts['same']} the same and {counts['worse']} worse; about",
        f"{round(len(gaps) / 20)} would stand out by chance alone. With {part.samples} texts a",
        f"difference below {min(errors):.2f} to {max(errors):.2f} in ln ppl, by setting, is not",
        f"seen{_verdict(part.samples)}",
        "",
        *table_of(part),
    ]
    return page.render(learned, summary.command, "\n".join(texts))


def _verdict(texts: int) -> str:
    """End the sentence about the texts: too few of them judge no claim of the paper."""
    enough = f"`--samples {FEWEST_TEXTS}` of the same command"
    return (
        "." if texts >= FEWEST_TEXTS else f", and no claim\nof the paper is judged: {enough} does."
    )


def _gaps(part: PartFigures) -> Iterator[tuple[str, int, Difference]]:
    """Yield every learned solver against the solver itself at as many steps."""
    groups = by_sampler(part)
    for name, figures in groups.items():
        base, method = name.split(": ")
        for figure in figures:
            for own in groups[f"{base}: {SOLVER}"]:
                if method != SOLVER and own.steps == figure.steps and own.steps is not None:
                    yield name, own.steps, difference(part, figure, own)

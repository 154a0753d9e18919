"""Plan the preset "varied": a low perplexity beside the entropy that tells what it is worth.

Text of the largest probability repeats itself, and a judge finds repetition likely; text at
temperature 1 is as varied as people's, and a judge finds it surprising.
"""

from __future__ import annotations

from dlm_eval.comparison.part import Part
from dlm_eval.comparison.presets.claims import BOOKS_MODEL, GREEDY, PLAIN
from dlm_eval.comparison.presets.summary import Summary
from dlm_eval.comparison.presets.tables import table_of
from dlm_eval.comparison.settings import Law, Setting
from dlm_eval.comparison.tasks import TextTask, book_task
from dlm_eval.text.judging import JudgeOptions
from dlm_sampling import Denoiser

TEXTS, NEW_TOKENS = 16, 64


def parts() -> tuple[Part, ...]:
    """Return the one comparison."""

    def task(denoiser: Denoiser) -> TextTask:
        return book_task(denoiser, TEXTS, NEW_TOKENS)

    settings = (
        Setting("llada", GREEDY, NEW_TOKENS),
        Setting("ancestral", Law(0.7), NEW_TOKENS),
        *(Setting("ancestral", PLAIN, steps) for steps in (8, NEW_TOKENS)),
    )
    return (Part("texts", BOOKS_MODEL, task, settings, TEXTS, judge=JudgeOptions(features="none")),)


def render(summary: Summary) -> str:
    """Return the page."""
    (part,) = summary.parts
    lines = [
        "# Perplexity says nothing without entropy",
        "",
        "Written by one command:",
        "",
        "```bash",
        summary.command,
        "```",
        "",
        f"`{part.model}` continues {part.samples} passages of held-out books by {NEW_TOKENS}",
        "tokens. The greedy texts (T 0) have the lowest perplexity, because they repeat a few",
        "words: their entropy shows it. Ancestral texts at T 1 are as varied as the books, and the",
        "judge finds them surprising. Every report of `dlm-sampling eval` has both columns side by",
        "side, and warns where the entropy has collapsed against the references.",
        "",
        *table_of(part),
    ]
    return "\n".join(lines).rstrip() + "\n"

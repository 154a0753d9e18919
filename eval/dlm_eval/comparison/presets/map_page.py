"""Write the pages of the presets "samplers" and "uniform"."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from dlm_eval.comparison.presets.differences import Outcome, against, judging
from dlm_eval.comparison.presets.maps import BASELINES, NEW_TOKENS
from dlm_eval.comparison.presets.picture import by_sampler
from dlm_eval.comparison.presets.summary import PartFigures, Summary
from dlm_eval.comparison.presets.tables import table_of

OUTCOMES: tuple[Outcome, ...] = ("better", "less varied", "same", "worse")

SAMPLERS = (
    "# Samplers compared",
    "Every sampler of `samplers.available()` that runs on masks (without `d2f`, `d3llm` and "
    "`fast-dllm-v2`, which need several blocks), with its own options except where a row names "
    "one, under one law in each part: *plain* is temperature 1, *greedy* temperature 0, *nucleus* "
    "temperature 1 and top-p 0.9 without the crossing token. Every sampler runs under the law of "
    "its paper, and fills grids under the plain law too.",
)
UNIFORM = (
    "# Samplers of uniform noise",
    "Every sampler that runs on uniform noise, at temperature 1. A sampler of single events has "
    "no steps: its events per pass are swept. `diffusion-gemma` is made for networks that predict "
    "a posterior; this one does not.",
)


def render_samplers(summary: Summary) -> str:
    """Return the page of the preset "samplers"."""
    return _render(summary, *SAMPLERS)


def render_uniform(summary: Summary) -> str:
    """Return the page of the preset "uniform"."""
    return _render(summary, *UNIFORM)


def _render(summary: Summary, title: str, subject: str) -> str:
    lines = [
        title,
        "",
        subject,
        "",
        "One command writes this page and its figures, and any end only interrupts it:",
        "",
        "```bash",
        summary.command,
        "```",
        "",
        *_tasks(summary.parts),
        "",
        f"These are small models: a row shows where a sampler stands. {judging(summary)} `±` is a "
        "standard error over samples. NFE is measured: forward passes per row. A sampler that "
        "sets its own pace has no steps; its own parameter is swept.",
        "",
        "**Against a baseline**: at the NFE of the row, with the baseline linear in log NFE "
        "between its own points; *better* and *worse* are beyond two standard errors, *less "
        "varied* is a lower perplexity bought with a lower entropy, which is no gain by itself. "
        "Nothing is corrected for the number of comparisons: about one in twenty of those that "
        "are really equal is called better or worse. Seconds were measured while other programs "
        "ran on the machine.",
        "",
        "## In short",
        "",
        "| part | against | better | less varied | same | worse | better most often |",
        "| --- " * 7 + "|",
        *(line for part in summary.parts for line in _counts(part)),
        "",
        *(line for part in summary.parts for line in table_of(part, _baselines(part))),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _tasks(parts: Sequence[PartFigures]) -> list[str]:
    lines: list[str] = []
    if any(part.judged for part in parts):
        lines.append(
            f"- **texts**: passages of held-out books, continued by {NEW_TOKENS} tokens; the "
            "shipped judge reads the continuation alone (corpus perplexity, its tokens 2..n)."
        )
    if any(not part.judged for part in parts):
        lines.append(
            "- **grids**: `sudoku4x4` fills 4x4 grids, from nothing or, where the part says "
            "*clues*, from 5 clues."
        )
    return lines


def _baselines(part: PartFigures) -> tuple[str, ...]:
    """Return the baselines that ran in a part."""
    known = by_sampler(part)
    law = next((law for law in BASELINES if part.name.endswith(law)), "plain")
    return tuple(name for name in BASELINES[law] if name in known)


def _counts(part: PartFigures) -> list[str]:
    lines: list[str] = []
    for baseline in _baselines(part):
        pairs = [(figure.sampler, against(part, figure, baseline)) for figure in part.figures]
        told = [(name, gap.outcome) for name, gap in pairs if gap is not None]
        count = Counter(outcome for _, outcome in told)
        best = Counter(name for name, outcome in told if outcome == "better").most_common(3)
        named = ", ".join(f"`{name}` ({times})" for name, times in best) or "nobody"
        numbers = " | ".join(str(count[outcome]) for outcome in OUTCOMES)
        lines.append(f"| {part.name} | `{baseline}` | {numbers} | {named} |")
    return lines

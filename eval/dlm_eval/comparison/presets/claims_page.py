"""Judge the claims of papers by the figures of the preset "claims", and write its page."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from dlm_eval.comparison.presets.claims import WIDE_KLASS
from dlm_eval.comparison.presets.differences import (
    ERRORS,
    UNDECIDED,
    at_equal_nfe,
    difference,
    each,
    speed,
    verdict_of,
)
from dlm_eval.comparison.presets.picture import by_sampler
from dlm_eval.comparison.presets.summary import Figure, PartFigures, Summary
from dlm_eval.comparison.presets.tables import table_of

FEWEST_BUDGETS = 3
"""Budgets of a baseline below which its own speed-up at equal quality is not known."""


@dataclass(frozen=True)
class Finding:
    """Hold what comparisons say of a claim.

    Fields:
        claim: in words.
        paper: its arXiv number.
        task: on which it is judged.
        verdict: see `verdict_of`.
        figures: with their errors.
        comparisons: differences that were looked at.
    """

    claim: str
    paper: str
    task: str
    verdict: str
    figures: str
    comparisons: int = 1


def render(summary: Summary) -> str:
    """Return the page."""
    findings = [*_solvers(summary), *_remdm(summary), *_decoders(summary), *_float32(summary)]
    compared = sum(f.comparisons for f in findings)
    rows = [
        f"| {f.claim} | {f.paper} | {f.task} | **{f.verdict}** | {f.figures} |" for f in findings
    ]
    tables = [line for part in summary.parts for line in table_of(part)]
    texts = next(part for part in summary.parts if part.judged)
    grids = next(part for part in summary.parts if not part.judged)
    lines = [
        "# Claims of papers on the embedded models",
        "",
        "Written from `summary.json` beside it by one command, which any end only interrupts:",
        "",
        "```bash",
        summary.command,
        "```",
        "",
        f"Texts: `{texts.model}` continues passages of held-out books by 32 tokens, as many as the",
        "part says; the shipped judge reads the continuation alone (corpus perplexity, its tokens",
        f"2..n) and MAUVE compares it with the book's own. Grids: `{grids.model}` fills",
        f"{grids.samples} grids, with 5 clues at temperature 0 (decoders) or from nothing at",
        "temperature 1 (the others).",
        "These are small models: what holds here need not hold for a large one, nor the other way",
        "round.",
        "",
        "`±` is a standard error over samples; row i has the same prompt and seed in every",
        "setting, and the error of a difference is that of the differences of rows. A difference",
        "counts beyond two of them. `ln ppl`: difference of the logarithms of the perplexities,",
        "lower is better. `H`: difference of the unigram entropies in nats; a lower perplexity",
        "with a lower entropy is no gain by itself. At equal NFE the baseline is linear in log NFE",
        "between its points. *Undecided*: no difference beyond the errors at this n; to count, it",
        "would have to be twice its `±`.",
        "",
        "Read this before you quote a verdict:",
        "",
        f"- The {compared} differences below are not corrected for their number: about "
        f"{round(compared / 20)} of them would",
        "  stand out by chance alone.",
        "- The verdict *undecided* was defined after the results of an earlier run had been seen.",
        "  Before, such a row read *does not hold*, which the figures do not show.",
        "- Euler's method has no row: on masks with the linear schedule its step is the ancestral",
        "  one: the same texts of the same random numbers (`tests/samplers/test_mask_solvers.py`).",
        "- KLASS runs twice: with its released bound of 0.01 nats on the change of a law, below",
        "  which no law of the small models settles early, and with a bound of 1 nat.",
        "- float32 Gumbel noise is not run as released: the law of its race is drawn from, in",
        "  closed form, on two time grids (`dlm_eval/comparison/float32.py`).",
        *_passes(summary),
        *_apart(summary),
        "- Seconds were measured while other programs ran on the machine: compare NFE instead.",
        "- The texts and the report of each part are not committed (25 MB); the command above",
        "  writes them.",
        "",
        "## Claims",
        "",
        "| claim | paper | task | here | figures |",
        "| --- | --- | --- | --- | --- |",
        *rows,
        "",
        "![Quality against NFE, and at equal entropy](plots.png)",
        "",
        *tables,
    ]
    return "\n".join(lines).rstrip() + "\n"


REMDM = (("text-remdm", "texts, top-p 0.9", 32), ("sudoku-remdm", "grids, 0 clues", 16))
"""Part, task and tokens of a sample."""


def _passes(summary: Summary) -> list[str]:
    """Say which NFE ReMDM's steps came to."""
    lines = [
        "- ReMDM is judged twice: from 1x to 4x tokens steps, as in its paper, and from about 1x",
        "  to 4x tokens NFE. A step that changes nothing costs no pass, so that NFE grow less than",
        "  steps; MDLM's are at most one for each token, so that it has the first row only:",
    ]
    for name, task, length in REMDM:
        groups = by_sampler(summary.part(name))
        for sampler in ("remdm-loop", "remdm-cap 0.02", "ancestral"):
            nfe = {figure.steps: figure.nfe for figure in groups[sampler]}
            few, many = nfe[length], nfe[4 * length]
            lines.append(
                f"  - {task}, `{sampler}`: {length} to {4 * length} steps are NFE {few:.0f} to "
                f"{many:.0f}, {many / few:.1f}x"
            )
    return lines


def _apart(summary: Summary) -> list[str]:
    """Name the parts that do not say how the errors of settings go together."""
    names = [f"`{part.name}`" for part in summary.parts if part.correlations is None]
    if not names:
        return []
    return [
        f"- Measured before rows were compared one by one: {', '.join(names)}. The",
        "  errors there are those of independent samples, too much rather than too little.",
    ]


def _solvers(summary: Summary) -> list[Finding]:
    found: list[Finding] = []
    for name, task in (("text-solvers", "texts"), ("sudoku-solvers", "grids, 0 clues")):
        for baseline in ("tau-leaping", "ancestral"):
            gaps = at_equal_nfe(summary.part(name), "theta-trapezoidal", baseline)
            found.append(
                Finding(f"theta-trapezoidal beats {baseline} at equal NFE", "2502.00234", task,
                        verdict_of(gaps), each(gaps), len(gaps))
            )  # fmt: skip
    return found


def _remdm(summary: Summary) -> list[Finding]:
    found: list[Finding] = []
    for name, task, length in REMDM:
        part = summary.part(name)
        groups = {key: {f.steps: f for f in value} for key, value in by_sampler(part).items()}
        for sampler in ("remdm-loop", "remdm-cap 0.02", "ancestral"):
            few, many = groups[sampler][length], groups[sampler][4 * length]
            gap = difference(part, many, few)
            mauve = _mauve(few, many)
            claim = f"{sampler} improves from 1x to 4x tokens steps"
            claim = "MDLM does not" if sampler == "ancestral" else claim
            verdict = verdict_of([gap])
            if sampler == "ancestral":
                verdict = "does not hold" if verdict == "holds" else UNDECIDED
            found.append(Finding(claim, "2503.00307", task, verdict, f"{gap}{mauve}"))
        for sampler in ("remdm-loop", "remdm-cap 0.02"):
            few, many = (_nearest(groups[sampler].values(), nfe) for nfe in (length, 4 * length))
            gap = difference(part, many, few)
            told = f"NFE {few.nfe:.0f} to {many.nfe:.0f}: {gap}{_mauve(few, many)}"
            claim = f"{sampler} improves from 1x to 4x tokens NFE"
            found.append(Finding(claim, "2503.00307", task, verdict_of([gap]), told))
        gaps = [
            difference(part, figure, groups["ancestral"][steps])
            for steps, figure in groups["remdm-loop"].items()
        ]
        found.append(
            Finding("remdm-loop beats MDLM at equal steps, from 1x tokens on", "2503.00307", task,
                    verdict_of(gaps), each(gaps), len(gaps))
        )  # fmt: skip
        few_steps = [
            difference(part, figure, groups["ancestral"][steps])
            for steps, figure in groups["remdm-cap 0.04"].items()
        ]
        found.append(
            Finding("remdm-cap 0.04 beats MDLM at equal steps, below 1x tokens", "2503.00307",
                    task, verdict_of(few_steps), each(few_steps), len(few_steps))
        )  # fmt: skip
    return found


def _mauve(few: Figure, many: Figure) -> str:
    """Write MAUVE of both, where it was measured."""
    if few.mauve is None or many.mauve is None:
        return ""
    return f"; MAUVE {few.mauve:.3f} to {many.mauve:.3f}"


def _nearest(figures: Iterable[Figure], nfe: float) -> Figure:
    """Return the figure whose NFE are by the smallest factor from those asked for."""
    return min(figures, key=lambda figure: abs(math.log(figure.nfe / nfe)))


DECODERS = (
    ("klass", "llada", "KLASS", "2511.05664"),
    (WIDE_KLASS, "llada", "KLASS, laws may change by 1 nat", "2511.05664"),
    ("ccd", "llada-entropy", "CCD", "2512.02044"),
    ("eb-sampler", "llada-entropy", "EB-Sampler", "2505.24857"),
)


def _decoders(summary: Summary) -> list[Finding]:
    found: list[Finding] = []
    tasks = (("sudoku-decoders", "grids, 5 clues"), ("text-decoders", "texts, greedy"))
    for sampler, baseline, name, paper in DECODERS:
        for part_name, task in tasks:
            part = summary.part(part_name)
            verdict, told = _speed(part, sampler, baseline)
            gaps = at_equal_nfe(part, sampler, baseline)
            found.append(
                Finding(f"{name}: faster at equal quality", paper, task,
                        verdict, f"{told}; against `{baseline}` at equal NFE: {each(gaps)}",
                        len(gaps))
            )  # fmt: skip
    for part_name, task in tasks:
        verdict, told = _speed(summary.part(part_name), "pc-sampler", "llada")
        found.append(
            Finding("PC-Sampler: faster at equal quality", "2508.13021", task, verdict,
                    f"{told}; against `llada` at equal NFE: below")
        )  # fmt: skip
    for part_name, task in tasks:
        known = by_sampler(summary.part(part_name))
        for baseline in [name for name in ("llada", "llada-random") if name in known]:
            gaps = at_equal_nfe(summary.part(part_name), "pc-sampler", baseline)
            found.append(
                Finding(f"PC-Sampler beats `{baseline}` at equal steps", "2508.13021", task,
                        verdict_of(gaps), each(gaps), len(gaps))
            )  # fmt: skip
    return found


def _speed(part: PartFigures, sampler: str, baseline: str) -> tuple[str, str]:
    """Return the verdict on a speed-up at equal quality, and its figures."""
    fast = speed(part, sampler, baseline)
    if fast is None:
        told = "no budget is as good"
    else:
        told = f"{fast[0]:.1f}x, `{baseline}` itself {fast[1]:.1f}x"
    if len(by_sampler(part)[baseline]) < FEWEST_BUDGETS:
        return UNDECIDED, told
    won = fast is not None and fast[0] > max(1.05, fast[1])
    return "holds" if won else "does not hold", told


def _float32(summary: Summary) -> list[Finding]:
    part = summary.part("text-float32")
    groups = by_sampler(part)
    exact = groups["ancestral"][0]
    found: list[Finding] = []
    for name, figures in groups.items():
        if name == "ancestral":
            continue
        gap = difference(part, figures[0], exact)
        lower = gap.entropy < -ERRORS * gap.entropy_error
        found.append(
            Finding(f"float32 Gumbel noise lowers the entropy: {name}", "2409.02908", "texts",
                    "holds" if lower else UNDECIDED, str(gap))
        )  # fmt: skip
    return found

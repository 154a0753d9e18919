"""Judge the claims of papers by the figures of the preset "claims", and write its page.

A difference counts beyond two standard errors.  A lower perplexity counts only where the entropy
has not fallen as well; otherwise it is called "less varied".  At equal NFE the baseline is linear
in log NFE between its measured points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from dlm_eval.comparison.presets.picture import by_sampler
from dlm_eval.comparison.presets.summary import Figure, PartFigures, Summary, interpolate

ERRORS = 2.0
LARGEST_GAP = 1.5
"""Budgets more than this factor outside the baseline's own NFE are not compared with it."""

Outcome = Literal["better", "less varied", "same", "worse"]


@dataclass(frozen=True)
class Difference:
    """Hold a figure minus another: quality (in units of its error's scale) and entropy.

    Fields:
        nfe: forward passes of the first.
        quality: ln perplexity, or accuracy from 0 to 1.
        error: its standard error.
        entropy: difference of the entropies, 0 where there are none.
        entropy_error: its standard error.
        judged: whether the quality is a perplexity, which is better when it is lower.
    """

    nfe: float
    quality: float
    error: float
    entropy: float
    entropy_error: float
    judged: bool

    @property
    def outcome(self) -> Outcome:
        """Return what the first is."""
        gain = -self.quality if self.judged else self.quality
        if abs(gain) <= ERRORS * self.error:
            return "same"
        if gain < 0:
            return "worse"
        return "less varied" if self.entropy < -ERRORS * self.entropy_error else "better"

    def __str__(self) -> str:
        """Return the figures with their errors."""
        if not self.judged:
            return f"{100 * self.quality:+.1f} ± {100 * self.error:.1f} points"
        return (
            f"ln ppl {self.quality:+.3f} ± {self.error:.3f}, "
            f"H {self.entropy:+.3f} ± {self.entropy_error:.3f}"
        )


@dataclass(frozen=True)
class Finding:
    """Hold what one comparison says of a claim."""

    claim: str
    paper: str
    task: str
    verdict: str
    figures: str


def difference(first: Figure, second: Figure, *, judged: bool) -> Difference:
    """Return the first figure minus the second, as of independent samples."""
    both = first.entropy is not None and second.entropy is not None
    return Difference(
        nfe=first.nfe,
        quality=first.quality - second.quality,
        error=math.hypot(first.error, second.error),
        entropy=(first.entropy or 0.0) - (second.entropy or 0.0) if both else 0.0,
        entropy_error=math.hypot(first.entropy_error, second.entropy_error),
        judged=judged,
    )


def at_equal_nfe(part: PartFigures, sampler: str, baseline: str) -> list[Difference]:
    """Return a sampler minus a baseline at each NFE of the sampler that the baseline spans."""
    groups = by_sampler(part)
    base = groups[baseline]
    low, high = base[0].nfe / LARGEST_GAP, base[-1].nfe * LARGEST_GAP
    return [
        difference(figure, interpolate(base, figure.nfe), judged=part.judged)
        for figure in groups[sampler]
        if low <= figure.nfe <= high
    ]


def verdict_of(differences: Sequence[Difference]) -> str:
    """Return whether a sampler is better: at some NFE and nowhere worse."""
    outcomes = [one.outcome for one in differences]
    better, worse = outcomes.count("better"), outcomes.count("worse")
    if better and not worse:
        return "holds"
    if better:
        return "holds at some NFE"
    if "less varied" in outcomes and not worse:
        return "only with less entropy"
    return "does not hold"


def speed(part: PartFigures, sampler: str, baseline: str) -> tuple[float, float] | None:
    """Return the speed-up at equal quality of a sampler, and of the baseline itself.

    Equal quality is that of the baseline with most passes, within two standard errors, in quality
    and entropy.  A speed-up is the ratio of the passes; None where no budget is as good.
    """
    groups = by_sampler(part)
    best = groups[baseline][-1]

    def fastest(figures: Sequence[Figure]) -> float | None:
        good = [
            figure.nfe
            for figure in figures
            for gap in [difference(figure, best, judged=part.judged)]
            if gap.outcome in ("same", "better") and gap.entropy >= -ERRORS * gap.entropy_error
        ]
        return best.nfe / min(good) if good else None

    own, other = fastest(groups[sampler]), fastest(groups[baseline])
    return None if own is None or other is None else (own, other)


def render(summary: Summary) -> str:
    """Return the page."""
    findings = [*_solvers(summary), *_remdm(summary), *_decoders(summary), *_float32(summary)]
    rows = [
        f"| {f.claim} | {f.paper} | {f.task} | **{f.verdict}** | {f.figures} |" for f in findings
    ]
    tables = [line for part in summary.parts for line in _table(part)]
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
        f"Texts: `{texts.model}` continues {texts.samples} passages of held-out books by 32",
        "tokens; the shipped judge reads the continuation alone (corpus perplexity, its tokens",
        f"2..n) and MAUVE compares it with the book's own. Grids: `{grids.model}` fills",
        f"{grids.samples} grids, with 5 clues at temperature 0 (decoders) or from nothing at",
        "temperature 1 (the others).",
        "These are small models: what holds here need not hold for a large one, nor the other way",
        "round.",
        "",
        "`±` is a standard error over samples. A difference counts beyond two of them; with so",
        "many comparisons about one in twenty counts by chance. `ln ppl`: difference of the",
        "logarithms of the perplexities, lower is better. `H`: difference of the unigram entropies",
        "in nats; a lower perplexity with a lower entropy is no gain by itself. At equal NFE the",
        "baseline is linear in log NFE between its points.",
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


def _solvers(summary: Summary) -> list[Finding]:
    found: list[Finding] = []
    for name, task in (("text-solvers", "texts"), ("sudoku-solvers", "grids, 0 clues")):
        for baseline in ("tau-leaping", "euler", "ancestral"):
            gaps = at_equal_nfe(summary.part(name), "theta-trapezoidal", baseline)
            found.append(
                Finding(f"theta-trapezoidal beats {baseline} at equal NFE", "2502.00234", task,
                        verdict_of(gaps), _each(gaps))
            )  # fmt: skip
    return found


def _remdm(summary: Summary) -> list[Finding]:
    found: list[Finding] = []
    for name, task, length in (("text-remdm", "texts, top-p 0.9", 32),
                               ("sudoku-remdm", "grids, 0 clues", 16)):  # fmt: skip
        part = summary.part(name)
        groups = {key: {f.steps: f for f in value} for key, value in by_sampler(part).items()}
        for sampler in ("remdm-loop", "remdm-cap 0.02", "ancestral"):
            few, many = groups[sampler][length], groups[sampler][4 * length]
            gap = difference(many, few, judged=part.judged)
            mauve = "" if many.mauve is None else f"; MAUVE {few.mauve:.3f} to {many.mauve:.3f}"
            claim = f"{sampler} improves from 1x to 4x tokens steps"
            claim = "MDLM does not" if sampler == "ancestral" else claim
            verdict = verdict_of([gap])
            if sampler == "ancestral":
                verdict = "holds" if verdict == "does not hold" else "does not hold"
            found.append(Finding(claim, "2503.00307", task, verdict, f"{gap}{mauve}"))
        gaps = [
            difference(figure, groups["ancestral"][steps], judged=part.judged)
            for steps, figure in groups["remdm-loop"].items()
        ]
        found.append(
            Finding("remdm-loop beats MDLM at equal steps, from 1x tokens on", "2503.00307", task,
                    verdict_of(gaps), _each(gaps))
        )  # fmt: skip
        few_steps = [
            difference(figure, groups["ancestral"][steps], judged=part.judged)
            for steps, figure in groups["remdm-cap 0.04"].items()
        ]
        found.append(
            Finding("remdm-cap 0.04 beats MDLM at equal steps, below 1x tokens", "2503.00307",
                    task, verdict_of(few_steps), _each(few_steps))
        )  # fmt: skip
    return found


DECODERS = (
    ("klass", "llada", "KLASS", "2511.05664"),
    ("ccd", "llada-entropy", "CCD", "2512.02044"),
    ("eb-sampler", "llada-entropy", "EB-Sampler", "2505.24857"),
)


def _decoders(summary: Summary) -> list[Finding]:
    found: list[Finding] = []
    tasks = (("sudoku-decoders", "grids, 5 clues"), ("text-decoders", "texts, greedy"))
    for sampler, baseline, name, paper in DECODERS:
        for part_name, task in tasks:
            part = summary.part(part_name)
            fast = speed(part, sampler, baseline)
            gaps = at_equal_nfe(part, sampler, baseline)
            won = fast is not None and fast[0] > max(1.05, fast[1])
            told = (
                "no budget is as good"
                if fast is None
                else f"{fast[0]:.1f}x, `{baseline}` itself {fast[1]:.1f}x"
            )
            found.append(
                Finding(f"{name}: faster at equal quality", paper, task,
                        "holds" if won else "does not hold",
                        f"{told}; against `{baseline}` at equal NFE: {_each(gaps)}")
            )  # fmt: skip
    for part_name, task in tasks:
        known = by_sampler(summary.part(part_name))
        for baseline in [name for name in ("llada", "llada-random") if name in known]:
            gaps = at_equal_nfe(summary.part(part_name), "pc-sampler", baseline)
            found.append(
                Finding(f"PC-Sampler beats `{baseline}` at equal steps", "2508.13021", task,
                        verdict_of(gaps), _each(gaps))
            )  # fmt: skip
    return found


def _float32(summary: Summary) -> list[Finding]:
    part = summary.part("text-float32")
    groups = by_sampler(part)
    exact = groups["ancestral"][0]
    found: list[Finding] = []
    for name, figures in groups.items():
        if name == "ancestral":
            continue
        gap = difference(figures[0], exact, judged=True)
        lower = gap.entropy < -ERRORS * gap.entropy_error
        found.append(
            Finding(f"float32 Gumbel noise lowers the entropy: {name}", "2409.02908", "texts",
                    "holds" if lower else "does not hold", str(gap))
        )  # fmt: skip
    return found


def _each(gaps: Sequence[Difference]) -> str:
    return "; ".join(f"NFE {gap.nfe:.0f}: {gap} ({gap.outcome})" for gap in gaps) or "none"


def _table(part: PartFigures) -> list[str]:
    """Return the table of a part."""
    head = "perplexity | entropy | MAUVE" if part.judged else "right in % | different right grids"
    lines = [
        f"## {part.name}",
        "",
        f"`{part.model}`, n = {part.samples}, protocol {part.protocol_hash}.",
        "",
        f"| setting | NFE | {head} | seconds per sample |",
        "| --- " * (6 if part.judged else 5) + "|",
    ]
    extra = () if part.references is None else (part.references,)
    for figure in (*part.figures, *extra):
        nfe, seconds = (f"{figure.nfe:.1f}", f"{figure.seconds:.3f}") if figure.nfe else ("", "")
        if part.judged:
            perplexity = math.exp(figure.quality)
            mauve = "" if figure.mauve is None else f"{figure.mauve:.3f}"
            value = (
                f"{perplexity:.1f} ± {perplexity * figure.error:.1f} | "
                f"{figure.entropy:.3f} ± {figure.entropy_error:.3f} | {mauve}"
            )
        else:
            value = f"{100 * figure.quality:.1f} ± {100 * figure.error:.1f} | {figure.different}"
        lines.append(f"| {figure.label} | {nfe} | {value} | {seconds} |")
    return [*lines, *(f"\nRefused: {reason}" for reason in part.refused), ""]

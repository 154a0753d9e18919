"""Compare the figures of samplers: at equal NFE, and passes at equal quality.

A difference counts beyond two standard errors.  A lower perplexity counts only where the entropy
has not fallen as well; otherwise it is called "less varied".  At equal NFE the baseline is linear
in log NFE between its measured points.  Row i has one prompt and one seed in every setting, so that
the error of a difference is that of the differences of rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from dlm_eval.comparison.presets.picture import by_sampler
from dlm_eval.comparison.presets.summary import Figure, PartFigures, Summary, weights_at

ERRORS = 2.0
UNDECIDED = "undecided"
ROUNDING = 1e-6
"""Of figures in a file; settings with the same samples have no error."""
FEWEST_TEXTS = 128
"""Of a setting, with which a claim of a paper is judged."""
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
        if abs(gain) <= ERRORS * self.error + ROUNDING:
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


def judging(summary: Summary) -> str:
    """Say whether a page has the texts to judge claims of papers, and where they are judged."""
    place = "the preset `claims` (`eval/results/claims/README.md`) does"
    fewest = min(part.samples for part in summary.parts)
    if fewest < FEWEST_TEXTS:
        return f"With {fewest} samples a row judges no claim of a paper: {place}."
    return f"Claims of papers are not judged here: {place}."


def difference(part: PartFigures, first: Figure, second: Figure) -> Difference:
    """Return the first figure of a comparison minus the second."""
    return _minus(part, first, {second.label: 1.0})


def _minus(part: PartFigures, first: Figure, weights: Mapping[str, float]) -> Difference:
    """Return a figure minus a weighted sum of figures, weights by label."""
    others = [(figure, weights[figure.label]) for figure in part.figures if figure.label in weights]
    signed = {label: -weight for label, weight in weights.items()}
    signed[first.label] = signed.get(first.label, 0.0) + 1.0
    varied = first.entropy is not None
    return Difference(
        nfe=first.nfe,
        quality=first.quality - sum(weight * figure.quality for figure, weight in others),
        error=part.error(signed),
        entropy=(first.entropy or 0.0) - sum(weight * (f.entropy or 0.0) for f, weight in others),
        entropy_error=part.entropy_error(signed) if varied else 0.0,
        judged=part.judged,
    )


def at_equal_nfe(part: PartFigures, sampler: str, baseline: str) -> list[Difference]:
    """Return a sampler minus a baseline at each NFE of the sampler that the baseline spans."""
    gaps = [against(part, figure, baseline) for figure in by_sampler(part)[sampler]]
    return [gap for gap in gaps if gap is not None]


def against(part: PartFigures, figure: Figure, baseline: str) -> Difference | None:
    """Return a figure minus a baseline at its NFE; None beyond the baseline's, and for itself."""
    base = by_sampler(part).get(baseline, [])
    if not base or figure.sampler == baseline:
        return None
    if not base[0].nfe / LARGEST_GAP <= figure.nfe <= base[-1].nfe * LARGEST_GAP:
        return None
    return _minus(part, figure, weights_at(base, figure.nfe))


def verdict_of(differences: Sequence[Difference]) -> str:
    """Return whether a sampler is better: at some NFE and nowhere worse.

    Without any difference beyond the errors it is undecided: too few samples, or none is there.
    """
    outcomes = [one.outcome for one in differences]
    better, worse = outcomes.count("better"), outcomes.count("worse")
    if better and not worse:
        return "holds"
    if better:
        return "holds at some NFE"
    if "less varied" in outcomes and not worse:
        return "only with less entropy"
    return "does not hold" if worse else UNDECIDED


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
            for gap in [difference(part, figure, best)]
            if gap.outcome in ("same", "better") and gap.entropy >= -ERRORS * gap.entropy_error
        ]
        return best.nfe / min(good) if good else None

    own, other = fastest(groups[sampler]), fastest(groups[baseline])
    return None if own is None or other is None else (own, other)


def each(gaps: Sequence[Difference]) -> str:
    """Return differences in one line."""
    return "; ".join(f"NFE {gap.nfe:.0f}: {gap} ({gap.outcome})" for gap in gaps) or "none"

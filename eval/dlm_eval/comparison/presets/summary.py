"""Reduce the comparisons of a preset to the figures of each setting: the file that is committed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dlm_eval.comparison.part import Written
from dlm_eval.judges.diversity import entropies
from dlm_eval.judges.scores import TextScores
from dlm_eval.report import Metric


@dataclass(frozen=True, kw_only=True)
class Figure:
    """Hold the figures of one setting; errors are standard errors over samples.

    Fields:
        label: the setting.
        sampler: its sampler.
        steps: planned steps, None where the sampler sets its own pace.
        nfe: mean forward passes per sample.
        quality: natural logarithm of the generative perplexity, or accuracy from 0 to 1.
        error: of the quality.
        entropy: unigram entropy in nats; None where answers are right or wrong.
        entropy_error: of the entropy.
        mauve: against the references, mean over seeds of k-means; None without.
        different: different right answers, None for texts.
        seconds: per sample.
    """

    label: str
    sampler: str
    steps: int | None
    nfe: float
    quality: float
    error: float
    entropy: float | None = None
    entropy_error: float = 0.0
    mauve: float | None = None
    different: int | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Correlations:
    """Hold how the errors of settings go together: row i has one prompt and one seed in all.

    Fields:
        quality: of the errors of the quality, row by row up to the diagonal, in order of the
            figures.
        entropy: of the errors of the entropy; () where answers are right or wrong.
    """

    quality: tuple[tuple[float, ...], ...]
    entropy: tuple[tuple[float, ...], ...] = ()


@dataclass(frozen=True, kw_only=True)
class PartFigures:
    """Hold the figures of one comparison.

    Fields:
        name: of the part.
        model: its name.
        samples: of each setting.
        judged: whether the quality is that of texts, else of answers.
        protocol_hash: fingerprint of the protocol.
        references: figures of people's texts, None without.
        figures: of the settings.
        refused: settings that did not run, with the reason.
        correlations: of the figures; None counts them as those of independent samples.
    """

    name: str
    model: str
    samples: int
    judged: bool
    protocol_hash: str
    references: Figure | None
    figures: tuple[Figure, ...]
    refused: tuple[str, ...] = ()
    correlations: Correlations | None = None

    def error(self, weights: Mapping[str, float]) -> float:
        """Return the standard error of a weighted sum of qualities, weights by label."""
        rows = () if self.correlations is None else self.correlations.quality
        return self._spread(weights, [figure.error for figure in self.figures], rows)

    def entropy_error(self, weights: Mapping[str, float]) -> float:
        """Return the standard error of a weighted sum of entropies, weights by label."""
        rows = () if self.correlations is None else self.correlations.entropy
        return self._spread(weights, [figure.entropy_error for figure in self.figures], rows)

    def _spread(
        self,
        weights: Mapping[str, float],
        errors: Sequence[float],
        rows: Sequence[Sequence[float]],
    ) -> float:
        parts = [
            weights.get(figure.label, 0.0) * error
            for figure, error in zip(self.figures, errors, strict=True)
        ]
        lower = np.eye(len(parts))
        for i, row in enumerate(rows):
            lower[i, : len(row)] = row
        joint = lower + np.tril(lower, -1).T
        return math.sqrt(max(float(np.array(parts) @ joint @ np.array(parts)), 0.0))


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Hold the figures of a preset, with the command that measures them again."""

    command: str
    versions: Mapping[str, str]
    parts: tuple[PartFigures, ...]

    def part(self, name: str) -> PartFigures:
        """Return a part by its name."""
        return next(part for part in self.parts if part.name == name)


def summarise(written: Written) -> PartFigures:
    """Return the figures of a comparison."""
    by_group: dict[str, dict[str, Metric]] = {}
    for metric in written.results.metrics:
        by_group.setdefault(metric.group, {})[metric.name] = metric
    cells = [cell for cell in written.measured if cell.rows]
    judged = bool(written.figures.scores)
    return PartFigures(
        name=written.part.name,
        model=written.part.weights.name,
        samples=written.part.samples,
        judged=judged,
        protocol_hash=written.results.protocol_hash,
        references=_figure("books", "", None, by_group["references"]) if judged else None,
        figures=tuple(
            _figure(
                cell.setting.label, cell.setting.sampler, cell.setting.steps,
                by_group[cell.setting.label],
            )
            for cell in cells
        ),
        refused=tuple(f"{m.setting.label}: {m.refused}" for m in written.measured if m.refused),
        correlations=_correlations(written),
    )  # fmt: skip


def _correlations(written: Written) -> Correlations:
    """Return the correlations of what each row adds to a figure, over rows.

    A row adds nll - r counts to the logarithm of the corpus perplexity (r its nats per token), or
    its own perplexity to their mean, its entropy to the entropy, and 0 or 1 to the accuracy.
    """
    labels = [cell.setting.label for cell in written.measured if cell.rows]
    scores = written.figures.scores
    if not scores:
        return Correlations(_lower([written.figures.right[label] for label in labels]))
    judge = written.part.judge
    corpus = judge is None or judge.reduction == "corpus"
    terms = [_corpus_terms(scores[label]) if corpus else _own(scores[label]) for label in labels]
    return Correlations(_lower(terms), _lower([entropies(scores[label].ids) for label in labels]))


def _corpus_terms(scores: TextScores) -> npt.NDArray[np.float64]:
    return scores.nll - scores.nll.sum() / scores.counts.sum() * scores.counts


def _own(scores: TextScores) -> npt.NDArray[np.float64]:
    with np.errstate(invalid="ignore"):  # a silent text has none
        return np.exp(scores.nll / scores.counts)


def _lower(rows: Sequence[npt.NDArray[np.float64]]) -> tuple[tuple[float, ...], ...]:
    """Return the correlations of rows up to the diagonal.

    A row that does not vary goes with no other; values that are missing are left out by pairs.
    """
    found: list[tuple[float, ...]] = []
    for i, row in enumerate(rows):
        line: list[float] = []
        for other in rows[:i]:
            both = np.isfinite(row) & np.isfinite(other)
            a, b = row[both] - row[both].mean(), other[both] - other[both].mean()
            scale = math.sqrt(float(a @ a) * float(b @ b))
            line.append(float(a @ b) / scale if scale > 0 else 0.0)
        found.append((*line, 1.0))
    return tuple(found)


def _figure(label: str, sampler: str, steps: int | None, found: Mapping[str, Metric]) -> Figure:
    nfe = found["NFE"].value if "NFE" in found else 0.0
    seconds = found["seconds per sample"].value if "seconds per sample" in found else 0.0
    if "accuracy" in found:
        accuracy = found["accuracy"]
        return Figure(
            label=label, sampler=sampler, steps=steps, nfe=nfe, quality=accuracy.value / 100,
            error=(accuracy.error or 0.0) / 100, seconds=seconds,
            different=int(found["different right answers"].value),
        )  # fmt: skip
    perplexity, entropy = found["generative perplexity"], found["unigram entropy"]
    return Figure(
        label=label, sampler=sampler, steps=steps, nfe=nfe, quality=math.log(perplexity.value),
        error=(perplexity.error or 0.0) / perplexity.value, entropy=entropy.value,
        entropy_error=entropy.error or 0.0, seconds=seconds,
        mauve=found["MAUVE"].value if "MAUVE" in found else None,
    )  # fmt: skip


def weights_at(figures: Sequence[Figure], nfe: float) -> dict[str, float]:
    """Return the weights of a sampler's figures, by label, that make its figure at another NFE.

    It is linear in log NFE between those measured; beyond them the nearest counts.
    """
    ordered = sorted(figures, key=lambda figure: figure.nfe)
    places = np.log([figure.nfe for figure in ordered])
    shares = [float(np.interp(math.log(nfe), places, row)) for row in np.eye(len(ordered))]
    return {figure.label: share for figure, share in zip(ordered, shares, strict=True) if share}


def save_summary(path: Path, summary: Summary) -> None:
    """Write a summary as JSON; a row of correlations is a line of numbers."""
    data = _rounded(asdict(summary))
    for part, plain in zip(summary.parts, data["parts"], strict=True):
        if part.correlations is not None:
            plain["correlations"] = {
                "quality": _lines(part.correlations.quality),
                "entropy": _lines(part.correlations.entropy),
            }
    path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def _lines(rows: Sequence[Sequence[float]]) -> list[str]:
    return [" ".join(f"{value:.5g}" for value in row) for row in rows]


def _numbers(lines: Sequence[str]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(map(float, line.split())) for line in lines)


def load_summary(path: Path) -> Summary:
    """Read what `save_summary` wrote."""
    data: Any = json.loads(path.read_text(encoding="utf-8"))
    parts = [
        PartFigures(
            **{
                **part,
                "references": part["references"] and Figure(**part["references"]),
                "figures": tuple(Figure(**figure) for figure in part["figures"]),
                "refused": tuple(part["refused"]),
                "correlations": Correlations(
                    _numbers(part["correlations"]["quality"]),
                    _numbers(part["correlations"]["entropy"]),
                )
                if part.get("correlations")
                else None,
            }
        )
        for part in data["parts"]
    ]
    return Summary(command=data["command"], versions=data["versions"], parts=tuple(parts))


def _rounded(value: Any) -> Any:
    """Round to six digits, which is far below the errors."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {key: _rounded(one) for key, one in value.items()}  # pyright: ignore
    if isinstance(value, tuple | list):
        return [_rounded(one) for one in value]  # pyright: ignore
    return value

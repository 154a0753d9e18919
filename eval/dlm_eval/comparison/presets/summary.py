"""Reduce the comparisons of a preset to the figures of each setting: the file that is committed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dlm_eval.comparison.part import Written
from dlm_eval.report import Metric
from dlm_eval.report.results import Json


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
    """

    name: str
    model: str
    samples: int
    judged: bool
    protocol_hash: str
    references: Figure | None
    figures: tuple[Figure, ...]
    refused: tuple[str, ...] = ()


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
    )  # fmt: skip


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


def interpolate(figures: Sequence[Figure], nfe: float) -> Figure:
    """Return the figures of a sampler at another NFE, linear in log NFE between those measured.

    Beyond the measured ones the nearest counts.  The errors are those of the weighted sums.
    """
    ordered = sorted(figures, key=lambda figure: figure.nfe)
    places = np.log([figure.nfe for figure in ordered])
    weights = np.array([np.interp(math.log(nfe), places, row) for row in np.eye(len(ordered))])

    def mean(values: Sequence[float]) -> float:
        return float(weights @ np.array(values))

    def spread(values: Sequence[float]) -> float:
        return float(np.sqrt(weights**2 @ np.array(values) ** 2))

    entropies = [figure.entropy for figure in ordered if figure.entropy is not None]
    return Figure(
        label=f"{ordered[0].sampler} at NFE {nfe:.1f}",
        sampler=ordered[0].sampler,
        steps=None,
        nfe=nfe,
        quality=mean([figure.quality for figure in ordered]),
        error=spread([figure.error for figure in ordered]),
        entropy=mean(entropies) if len(entropies) == len(ordered) else None,
        entropy_error=spread([figure.entropy_error for figure in ordered]),
    )


def save_summary(path: Path, summary: Summary) -> None:
    """Write a summary as JSON."""
    path.write_text(json.dumps(_rounded(asdict(summary)), indent=1) + "\n", encoding="utf-8")


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
            }
        )
        for part in data["parts"]
    ]
    return Summary(command=data["command"], versions=data["versions"], parts=tuple(parts))


def _rounded(value: Any) -> Json:
    """Round to six digits, which is far below the errors."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {key: _rounded(one) for key, one in value.items()}  # pyright: ignore
    if isinstance(value, tuple | list):
        return [_rounded(one) for one in value]  # pyright: ignore
    return value

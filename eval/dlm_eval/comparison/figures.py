"""Turn the samples of a comparison into figures, warnings and plots."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dlm_eval.comparison.aup import LOSS, aup, kept
from dlm_eval.comparison.points import Point
from dlm_eval.comparison.run import Measured
from dlm_eval.comparison.tasks import Task
from dlm_eval.comparison.warnings import badly_read, collapsed, copied, refused, unbound
from dlm_eval.judges.diversity import distinct_n, repeat_rate, unigram_entropy
from dlm_eval.judges.scores import TextScores
from dlm_eval.report import Metric, Plot, draw
from dlm_eval.report.intervals import mean_and_error, variance, wilson_note
from dlm_eval.text.score import (
    DISTINCT,
    Protocol,
    few_for_mauve,
    figures,
    mauve_metric,
    read,
    read_references,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

REFERENCES = "references"
MARKERS = "osD^vPX*"
LONG_NAME, MOST_BESIDE = 30, 14
"""Characters of a name, and names, with which a legend stands beside its plot; others below."""
LEGEND_WIDTH, LINE_HEIGHT = 125, 0.17
"""Characters in a line of a legend below, and its height in inches."""
LEAST_MAP = 2.4
"""Height in inches of a heat map whose scale has room for its words."""


@dataclass(frozen=True)
class Figures:
    """Hold all that `results.json` and the report show of a comparison.

    Fields:
        metrics: the figures.
        warnings: sentences for the reader.
        plots: stand in the report.
        points: the settings as the plots have them.
        scores: what the judge says of the texts, by the label of their setting.
        right: 1 for each right answer and 0 for each wrong one, by the label of their setting.
    """

    metrics: tuple[Metric, ...]
    warnings: tuple[str, ...]
    plots: tuple[Plot, ...]
    points: tuple[Point, ...]
    scores: dict[str, TextScores]
    right: dict[str, npt.NDArray[np.float64]]


def figures_of(task: Task, measured: Sequence[Measured], protocol: Protocol | None) -> Figures:
    """Return the figures of all settings.

    Args:
        task: what was asked.
        measured: every setting, see `run`.
        protocol: how texts are judged, with their references; None for no judge.
    """
    metrics: list[Metric] = []
    points: list[Point] = []
    scores: dict[str, TextScores] = {}
    references = None if protocol is None else read_references(protocol)
    for cell in measured:
        if not cell.rows:
            continue
        if protocol is not None:
            scores[cell.setting.label] = read([row["text"] for row in cell.rows], protocol)
        own, point = _figures(task, cell, protocol, scores.get(cell.setting.label))
        if protocol is not None and references is not None:
            texts = [row["text"] for row in cell.rows]
            mauve = mauve_metric(texts, protocol, references)
            own += [mauve] if mauve is not None else []
        metrics += [replace(metric, group=cell.setting.label) for metric in own]
        points.append(point)
    if protocol is not None and references is not None:
        metrics += figures(references.scores, protocol, REFERENCES)
    accurate = any(metric.name == "accuracy" for metric in metrics)
    if accurate:
        metrics += _aup(points, len(measured[0].rows))
    of_people = None if references is None else references.scores
    warnings = [*refused(measured), *unbound(points)]
    if not accurate:
        tokens = {
            cell.setting.label: scores[cell.setting.label].ids
            if cell.setting.label in scores
            else [row["ids"] for row in cell.rows]
            for cell in measured
            if cell.rows
        }
        warnings += collapsed(tokens, None if of_people is None else of_people.ids)
    warnings += copied(task, measured)
    if protocol is not None:
        warnings += badly_read(measured, protocol, scores, of_people)
    warnings += few_for_mauve(min([m.n for m in metrics if m.name == "MAUVE"], default=5000))
    if protocol is None and not accurate:
        warnings.append("No judge read the texts: entropy alone says nothing of their quality.")
    word = "accuracy in %" if accurate else "generative perplexity"
    plots = _plots(points, word, log=not accurate) if points else []
    if points:
        plots.append(_heat_map(measured))
    right = {
        cell.setting.label: np.array(
            [bool(task.right(row["row"], row["text"], row["ids"])) for row in cell.rows], np.float64
        )
        for cell in measured
        if accurate
    }
    return Figures(tuple(metrics), tuple(warnings), tuple(plots), tuple(points), scores, right)


def _figures(
    task: Task, cell: Measured, protocol: Protocol | None, scores: TextScores | None
) -> tuple[list[Metric], Point]:
    rows, n = cell.rows, len(cell.rows)
    nfe = np.array([row["nfe"] for row in rows], np.float64)
    tokens = np.array([_new_tokens(row) for row in rows], np.float64)
    found: list[Metric] = []
    quality, error, entropy = None, 0.0, None
    right = [task.right(row["row"], row["text"], row["ids"]) for row in rows]
    if None in right:
        judged = protocol is not None and scores is not None
        found = figures(scores, protocol) if judged else _varied([row["ids"] for row in rows])
        by_name = {metric.name: metric for metric in found}
        entropy = by_name["unigram entropy"]
        if scores is not None:
            quality = by_name["generative perplexity"].value
            error = by_name["generative perplexity"].error or 0.0
    else:
        hits = sum(map(bool, right))
        quality, error = 100.0 * hits / n, 100.0 * math.sqrt(variance(hits, n))
        found.append(Metric(name="accuracy", value=quality, unit="%", n=n, error=error,
                            better="larger", note=wilson_note(hits, n)))  # fmt: skip
        distinct = len({tuple(row["ids"]) for row, good in zip(rows, right, strict=True) if good})
        found.append(Metric(name="different right answers", value=distinct, unit="", n=n))
    per_forward = float(tokens.sum() / nfe.sum()) if nfe.sum() else 0.0
    mean, spread = _mean(nfe)
    batches = len(cell.seconds)
    found += [
        Metric(name="NFE", value=mean, unit="passes", n=n, error=spread, better="smaller"),
        Metric(name="tokens per forward", value=per_forward, unit="", n=n, better="larger"),
        Metric(name="seconds per sample", value=sum(cell.seconds) / n, unit="s", n=n,
               better="smaller", note=f"wall time of {batches} batches"),
    ]  # fmt: skip
    point = Point(
        cell.setting,
        mean,
        per_forward,
        quality,
        error,
        None if entropy is None else entropy.value,
        0.0 if entropy is None else entropy.error or 0.0,
    )
    return found, point


def _varied(ids: Sequence[Sequence[int]]) -> list[Metric]:
    """Return entropy and repetition in the model's own tokens; texts of no token are left out."""
    rows = [row for row in ids if len(row)]
    mean, error = _mean(np.array([unigram_entropy([row]) for row in rows]))
    n = len(ids)
    return [
        Metric(name="unigram entropy", value=mean, unit="nats", n=n, error=error),
        *(Metric(name=f"distinct-{k}", value=distinct_n(rows, k), unit="", n=n) for k in DISTINCT),
        Metric(name="repeat rate", value=repeat_rate(rows, 4), unit="", n=n),
    ]


def _new_tokens(row: dict[str, Any]) -> int:
    """Count the tokens that the model wrote, up to the end of the text."""
    return sum(pass_number > 0 for pass_number in row["written"][: len(row["ids"])])


def _mean(values: npt.NDArray[np.float64]) -> tuple[float, float | None]:
    if len(values) < 2:
        return float(values.mean()) if len(values) else math.nan, None
    return mean_and_error(values)


def _by_series(points: Sequence[Point]) -> dict[str, list[Point]]:
    found: dict[str, list[Point]] = {}
    for point in points:
        found.setdefault(point.setting.series, []).append(point)
    return found


def _aup(points: Sequence[Point], n: int) -> list[Metric]:
    best = max(point.quality or 0.0 for point in points)
    return [
        Metric(
            name="AUP",
            value=aup([(p.per_forward, p.quality or 0.0) for p in group], best),
            unit="",
            n=n,
            better="larger",
            note=f"over {_budgets(group)} budgets; y_max {best:.1f} % is the best of all settings",
            group=f"{series}, all budgets",
        )
        for series, group in _by_series(points).items()
    ]


def _budgets(group: Sequence[Point]) -> str:
    """Say how many budgets count for AUP."""
    count = len(kept((point.per_forward, point.quality or 0.0) for point in group))
    if count == len(group):
        return str(count)
    return f"{count} of {len(group)} (the others lose more than {LOSS:g} % of accuracy)"


def _plots(points: Sequence[Point], quality: str, *, log: bool) -> list[Plot]:
    bars = "Error bars are one standard error over samples."
    judged = [point for point in points if point.quality is not None]
    plots: list[Plot] = []

    def nfe(point: Point) -> tuple[float, float]:
        return point.nfe, 0.0

    def entropy(point: Point) -> tuple[float, float]:
        return point.entropy or 0.0, point.entropy_error

    def per_forward(point: Point) -> tuple[float, float]:
        return point.per_forward, 0.0

    if judged:
        plots.append(_curves("Quality against NFE", bars, judged, nfe, "NFE", quality, log))
    if judged and log:
        plots.append(
            _curves(
                "Quality at equal entropy",
                f"Only settings above each other are comparable: lower at the same entropy is "
                f"better, and further left the texts repeat themselves. {bars}",
                judged, entropy, "unigram entropy in nats", quality, log,
            )
        )  # fmt: skip
    elif judged:
        plots.append(
            _curves(
                "Accuracy against tokens per forward", bars, judged, per_forward,
                "tokens per forward", quality, log,
            )
        )  # fmt: skip
    return plots


def _curves(
    title: str,
    caption: str,
    points: Sequence[Point],
    place: Callable[[Point], tuple[float, float]],
    x_label: str,
    y_label: str,
    log: bool,
) -> Plot:
    series_of = _by_series(points)
    longest = max(map(len, series_of))
    below = longest > LONG_NAME or len(series_of) > MOST_BESIDE
    columns = max(1, LEGEND_WIDTH // (longest + 6)) if below else 1

    def paint(figure: Figure) -> None:
        from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

        axes: Axes = figure.add_subplot()
        for i, (series, group) in enumerate(series_of.items()):
            ordered = sorted(group, key=lambda point: (point.setting.steps or 0, place(point)))
            x = [place(point)[0] for point in ordered]
            y = [point.quality for point in ordered]
            axes.errorbar(
                x, y, xerr=[place(p)[1] for p in ordered], yerr=[p.error for p in ordered],
                label=series, marker=MARKERS[i % len(MARKERS)], capsize=2, linewidth=1.2,
                markersize=5, linestyle="-" if i < len(MARKERS) else "--",
            )  # fmt: skip
        if x_label != "unigram entropy in nats":
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter(ScalarFormatter())
        if log:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axes.yaxis.set_major_formatter(ScalarFormatter())
            axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.grid(visible=True)
        if below:
            figure.legend(loc="outside lower left", ncols=columns, fontsize=8)
        else:
            figure.legend(loc="outside right upper")

    lines = math.ceil(len(series_of) / columns) if below else 0
    return draw(title, caption, paint, size=(9.0, 4.5 + LINE_HEIGHT * lines))


def _heat_map(measured: Sequence[Measured]) -> Plot:
    """Plot the mean order of writing by position, for the middle budget of every sampler."""
    series: dict[str, list[Measured]] = {}
    for cell in measured:
        if cell.rows:
            series.setdefault(cell.setting.series, []).append(cell)
    middle = [group[len(group) // 2] for group in series.values()]
    width = max(len(row["written"]) for cell in middle for row in cell.rows)
    table = np.array([_order(cell, width) for cell in middle])

    def paint(figure: Figure) -> None:
        axes: Axes = figure.add_subplot()
        image = axes.imshow(
            table, aspect="auto", interpolation="nearest", vmin=0, vmax=1, cmap="viridis"
        )
        axes.set_yticks(range(len(middle)), [cell.setting.label for cell in middle])
        axes.set_xlabel("position of the new text")
        figure.colorbar(image, ax=axes, label="share of the passes done", pad=0.01)

    caption = (
        "Mean over samples of the pass behind which a position was last written, as a share of "
        "the row's passes; the middle budget of each sampler. From dark to light along a row is "
        "writing from left to right; one colour is writing in any order."
    )
    return draw("When each position was written", caption, paint,
                size=(9.0, max(LEAST_MAP, 1.4 + 0.32 * len(middle))))  # fmt: skip


def _order(cell: Measured, width: int) -> npt.NDArray[np.float64]:
    """Mean share of the passes done by position; NaN where nothing was written."""
    total, count = np.zeros(width), np.zeros(width)
    for row in cell.rows:
        when = np.array(row["written"], np.float64)
        total[: len(when)] += when / max(1, row["nfe"])
        count[: len(when)] += when > 0
    return np.divide(total, count, out=np.full(width, np.nan), where=count > 0)

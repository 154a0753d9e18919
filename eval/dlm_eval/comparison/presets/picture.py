"""Draw the figures of a preset as one picture: quality against NFE, and at equal entropy."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from dlm_eval.comparison.presets.summary import Figure, PartFigures, Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKERS = "osD^vPX*"


def save_picture(path: Path, summary: Summary) -> None:
    """Write a PNG with a row of panels for each part."""
    import matplotlib as mpl
    from matplotlib.figure import Figure as Canvas

    style = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False,
             "legend.frameon": False, "grid.alpha": 0.25}  # fmt: skip
    with mpl.rc_context(style):
        canvas = Canvas(figsize=(12, 3.4 * len(summary.parts)), layout="constrained")
        panels = canvas.subplots(len(summary.parts), 2, squeeze=False)
        for (left, right), part in zip(panels, summary.parts, strict=True):
            _against_nfe(left, part)
            if part.judged:
                _against_entropy(right, part)
            else:
                right.set_axis_off()
            handles, labels = left.get_legend_handles_labels()
            place = right if not part.judged else left
            place.legend(
                handles, labels, fontsize=7, loc="center left" if not part.judged else "best"
            )
        canvas.savefig(path, dpi=110, metadata={"Software": None})


def _against_nfe(axes: Axes, part: PartFigures) -> None:
    for i, (name, figures) in enumerate(by_sampler(part).items()):
        x = [figure.nfe for figure in figures]
        _curve(axes, i, name, x, None, figures, part.judged)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("NFE")
    _finish(axes, part)


def _against_entropy(axes: Axes, part: PartFigures) -> None:
    for i, (name, figures) in enumerate(by_sampler(part).items()):
        x = [figure.entropy or 0.0 for figure in figures]
        _curve(axes, i, name, x, [figure.entropy_error for figure in figures], figures, True)
    if part.references is not None:
        axes.plot([part.references.entropy or 0.0], [math.exp(part.references.quality)],
                  marker="*", markersize=12, color="black", linestyle="")  # fmt: skip
        axes.annotate("books", (part.references.entropy or 0.0, math.exp(part.references.quality)),
                      textcoords="offset points", xytext=(6, 4))  # fmt: skip
    axes.set_xlabel("unigram entropy in nats")
    _finish(axes, part)


def _curve(
    axes: Axes,
    number: int,
    name: str,
    x: list[float],
    x_error: list[float] | None,
    figures: list[Figure],
    judged: bool,
) -> None:
    y = [math.exp(f.quality) if judged else 100 * f.quality for f in figures]
    scale = y if judged else [100.0] * len(y)
    axes.errorbar(
        x, y, xerr=x_error, yerr=[f.error * s for f, s in zip(figures, scale, strict=True)],
        label=name, marker=MARKERS[number % len(MARKERS)], color=f"C{number % 10}", capsize=2,
        linewidth=1.1, markersize=4,
    )  # fmt: skip


def _finish(axes: Axes, part: PartFigures) -> None:
    if part.judged:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
    axes.set_ylabel("generative perplexity" if part.judged else "right grids in %")
    axes.set_title(part.name, loc="left")
    axes.grid(visible=True)


def by_sampler(part: PartFigures) -> dict[str, list[Figure]]:
    """Return the figures of each sampler, in order of NFE."""
    found: dict[str, list[Figure]] = {}
    for figure in part.figures:
        found.setdefault(figure.sampler, []).append(figure)
    return {name: sorted(group, key=lambda f: f.nfe) for name, group in found.items()}

"""The figure of `orders`: error against NFE in every world, drawn from the result file."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dlm_eval.convergence.plan import EXACT

# The palette of Okabe and Ito, which colour-blind readers can tell apart; markers differ as well.
BLACK, ORANGE, SKY, GREEN, BLUE, VERMILLION, PURPLE, GREY, DARK = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2",
    "#D55E00", "#CC79A7", "#767676", "#404040",
)  # fmt: skip


@dataclass(frozen=True)
class Style:
    """How a method is drawn, and what it is called."""

    label: str
    colour: str
    marker: str
    size: float = 5.0
    hollow: bool = False
    line: str = "-"
    width: float = 1.4


STYLES = {
    "tau-leaping": Style("tau-leaping (last event wins)", SKY, "s"),
    "euler": Style("Euler", BLUE, "o", size=4.0),
    "ancestral": Style("ancestral = Tweedie (= mixture)", BLACK, "D", size=8.5, hollow=True),
    "integrated jump": Style("integrated jump", GREY, "^", size=6.5, hollow=True),
    "theta-rk-2": Style("theta-RK-2", ORANGE, "v"),
    "theta-trapezoidal": Style("theta-trapezoidal", VERMILLION, "o", size=6.0, width=2.4),
    "theta-trapezoidal, indicator": Style("theta-trapezoidal, indicator", PURPLE, "X", line="--"),
    "theta-trapezoidal, rejection": Style("theta-trapezoidal, rejection", GREEN, "P", line="--"),
    "theta-trapezoidal, displacement": Style(
        "theta-trapezoidal, labels y - x", DARK, "*", size=7.0, line=":"
    ),
}
WRONG = Style("wrong kind of prediction", BLACK, "x", line="--", width=1.0)
RIGHT_BESIDE_WRONG = ("euler", "ancestral", "integrated jump", "theta-trapezoidal")
PAPER = ("tau-leaping", "euler", "theta-rk-2", "theta-trapezoidal")
SAMPLED: dict[str, Any] = {
    "marker": ".", "markersize": 5, "capsize": 4.5, "linewidth": 1.2,
    "linestyle": "none",
}  # fmt: skip


def draw(result: dict[str, Any]) -> bytes:
    """The figure as PNG; its description holds `fingerprint(result)`."""
    buffer = io.BytesIO()
    metadata = {"Description": fingerprint(result), "Software": None}
    plot(result).savefig(buffer, format="png", dpi=110, metadata=metadata)
    return buffer.getvalue()


SIZE = (11.5, 16.5)


def plot(result: dict[str, Any]) -> Figure:
    """The figure by itself."""
    figure = Figure(figsize=SIZE, layout="constrained")
    paint(figure, result)
    return figure


def paint(figure: Figure, result: dict[str, Any]) -> None:
    """Six panels of total variation, one of KL, and the legend; black is the ink of the style."""
    axes: Any = figure.subplots(4, 2)
    parts = {part["name"]: part for part in result["experiments"]}
    for letter, ax, part in zip("abcdef", axes.flat, parts.values(), strict=False):
        _panel(ax, part)
        ax.set_title(f"({letter})  {part['title']}", loc="left", fontsize=10.5)
    _paper(axes[3, 0], parts["token"], result["sampled"])
    _legend(axes[3, 1])


def fingerprint(result: dict[str, Any]) -> str:
    """What ties a figure to its result file: a hash of the file's content."""
    return hashlib.sha256(json.dumps(result, sort_keys=True).encode()).hexdigest()


def _ink(colour: str) -> str:
    """What is black or nearly so has the colour of the text, which a dark ground makes light."""
    text = mpl.rcParams["text.color"]
    return colour if text == "black" or colour not in (BLACK, DARK) else text


def _sampled() -> dict[str, Any]:
    return {**SAMPLED, "color": _ink(BLACK)}


def _panel(ax: Axes, part: dict[str, Any]) -> None:
    records = {record["method"]: record for record in part["records"]}
    wrong = [record for record in part["records"] if record["wrong"]]
    shown = [name for name in STYLES if name in records]
    shown = [name for name in shown if not wrong or name in RIGHT_BESIDE_WRONG]
    curves = [name for name in shown if max(records[name]["tv"]) > EXACT]
    for record in wrong:
        _curve(ax, record["nfe"], record["tv"], WRONG)
    for name in curves:
        _curve(ax, records[name]["nfe"], records[name]["tv"], STYLES[name])
    _shape(ax, "total variation to p0")
    _guides(ax, [(records[name]["nfe"], records[name]["tv"]) for name in curves], (1, 2))
    exact = [name for name in shown if name not in curves]
    if exact:
        _note(ax, f"exact here: {', '.join(exact)}", (0.02, 0.02))
    if wrong:
        _note(ax, f"{len(wrong)} wrong pairings", (0.66, 0.86))


def _curve(ax: Axes, nfe: Sequence[int], errors: Sequence[float], style: Style) -> None:
    ax.plot(
        nfe,
        errors,
        color=_ink(style.colour),
        marker=style.marker,
        markersize=style.size,
        markerfacecolor="none" if style.hollow else _ink(style.colour),
        linestyle=style.line,
        linewidth=style.width,
        label=style.label,
    )


def _guides(
    ax: Axes, curves: Sequence[tuple[Sequence[int], Sequence[float]]], orders: tuple[int, int]
) -> None:
    """Dotted lines of two slopes, one above all curves and one below them."""
    ends = curves[0][0][-4:]
    points = [(n, e) for nfe, errors in curves for n, e in zip(nfe, errors, strict=True)]
    for order, pick, shift, aside in ((orders[0], max, 1.7, 1), (orders[1], min, 0.6, -1)):
        # The reference height at which the line touches the outermost curve, moved off it.
        touch = pick(e * (n / ends[0]) ** order for n, e in points if n in ends) * shift
        heights = [touch * (ends[0] / n) ** order for n in ends]
        ax.plot(ends, heights, color=GREY, linestyle=(0, (1, 2)), linewidth=1.2)
        ax.annotate(
            f"slope {order}",
            (ends[1], heights[1]),
            xytext=(4 * aside, 4 * aside),
            textcoords="offset points",
            ha="left" if aside > 0 else "right",
            va="bottom" if aside > 0 else "top",
            fontsize=9,
            color=_ink(DARK),
        )


def _note(ax: Axes, text: str, place: tuple[float, float]) -> None:
    ax.text(*place, text, transform=ax.transAxes, fontsize=9, color=_ink(DARK))


def _shape(ax: Axes, label: str) -> None:
    """Logarithmic axes and a light grid."""
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.set_xlabel("NFE (forward passes)")
    ax.set_ylabel(label)
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.grid(True, which="major", color=GREY, alpha=0.22, linewidth=0.7)
    ax.set_axisbelow(True)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)


def _paper(ax: Axes, part: dict[str, Any], sampled: dict[str, Any]) -> None:
    """KL of the 15 states: exact curves and the sampled estimates with their intervals."""
    records = {record["method"]: record for record in part["records"]}
    for name in PAPER:
        _curve(ax, records[name]["nfe"], records[name]["kl"], STYLES[name])
    for record in sampled["records"]:
        value, low, high = record["kl"], record["low"], record["high"]
        ax.errorbar(
            record["nfe"], value, yerr=[[value - low], [high - value]], **_sampled(), zorder=5
        )
    _shape(ax, "KL(p0 || law), nats")
    ax.set_title("(g)  panel (b) in KL, and the same by sampling", loc="left", fontsize=10.5)
    _guides(ax, [(records[name]["nfe"], records[name]["kl"]) for name in PAPER], (2, 4))


def _legend(ax: Axes) -> None:
    ax.set_axis_off()
    handles = [_key(style) for style in (*STYLES.values(), WRONG)]
    dotted = Line2D([], [], color=GREY, linestyle=(0, (1, 2)), label="slopes to compare with")
    samples = ax.errorbar(
        [], [], yerr=[[], []], label="sampled, 95% bootstrap interval", **_sampled()
    )
    ax.legend(
        handles=[*handles, dotted, samples],
        loc="center left",
        frameon=False,
        fontsize=10.5,
        labelspacing=0.9,
        handlelength=3.2,
    )


def _key(style: Style) -> Line2D:
    return Line2D(
        [],
        [],
        color=_ink(style.colour),
        marker=style.marker,
        markersize=style.size,
        markerfacecolor="none" if style.hollow else _ink(style.colour),
        linestyle=style.line,
        linewidth=style.width,
        label=style.label,
    )

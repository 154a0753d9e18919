"""Draw a plot with matplotlib for a page, once on a light and once on a dark ground."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Colours after Okabe and Ito, which the colour blind tell apart, legible on both grounds.
COLOURS = ("#2a8ad4", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c8c8c", "#a05a2c")
INK = {"light": "#1c1c1e", "dark": "#e6e6e8"}


@dataclass(frozen=True, kw_only=True)
class Plot:
    """Hold a plot as two SVG pictures.

    Fields:
        title: heading.
        caption: sentences below the plot.
        light: SVG for a light ground, as a data URL.
        dark: the same for a dark ground.
    """

    title: str
    caption: str
    light: str
    dark: str


def draw(
    title: str,
    caption: str,
    paint: Callable[[Figure], None],
    *,
    size: tuple[float, float] = (8.0, 4.5),
) -> Plot:
    """Call `paint` on an empty figure of matplotlib, once for each ground.

    The same figures give the same bytes.

    Args:
        title: heading.
        caption: sentences below the plot.
        paint: adds axes and curves to the figure.
        size: width and height in inches.
    """
    light, dark = (_svg(paint, size, ink) for ink in (INK["light"], INK["dark"]))
    return Plot(title=title, caption=caption, light=light, dark=dark)


def _svg(paint: Callable[[Figure], None], size: tuple[float, float], ink: str) -> str:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    inked = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    style = {
        **dict.fromkeys(inked, ink),
        "axes.prop_cycle": mpl.cycler(color=COLOURS),
        "axes.spines.right": False,
        "axes.spines.top": False,
        "font.family": "DejaVu Sans",
        "font.size": 10,
        "grid.alpha": 0.25,
        "legend.frameon": False,
        "svg.fonttype": "path",
        "svg.hashsalt": "dlm_eval",
    }
    with mpl.rc_context(style):
        figure = Figure(figsize=size, layout="constrained")
        paint(figure)
        out = io.BytesIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(out.getvalue()).decode("ascii")

"""Draw the picture of `control`: distance to the product law, and quality against passes."""

from __future__ import annotations

import hashlib
import io
import json
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

# The palette of Okabe and Ito, which colour-blind readers can tell apart; markers differ as well.
STYLES = {
    "plain": ("#000000", "o", "plain run"),
    "best of n": ("#E69F00", "s", "best of n"),
    "particles": ("#0072B2", "D", "particles (steering)"),
    "candidates": ("#D55E00", "^", "candidates (SVDD)"),
}


def draw(result: dict[str, Any]) -> bytes:
    """Return the picture as PNG; its description holds `fingerprint(result)`."""
    figure = Figure(figsize=(14.0, 4.6), layout="constrained")
    axes: Any = figure.subplots(1, 3)
    _products(axes[0], result["products"])
    _quality(axes[1], result["sudoku"]["records"], "valid", "share of valid grids")
    axes[1].set_title("4x4 sudoku by reward alone", loc="left")
    for record in result["sudoku"]["records"]:
        if record["method"] == "plain":
            label = f"{record['steps']} steps"
            at = (record["passes"], record["valid"])
            axes[1].annotate(label, at, xytext=(6, -4), textcoords="offset points", fontsize=8)
    axes[1].set_ylim(-0.04, 1.04)
    _quality(axes[2], result["letters"]["records"], "letters", "letters per text")
    axes[2].set_title(f"tiny-books, {result['letters']['tokens']} tokens, more letters", loc="left")
    buffer = io.BytesIO()
    metadata = {"Description": fingerprint(result), "Software": None}
    figure.savefig(buffer, format="png", dpi=110, metadata=metadata)
    return buffer.getvalue()


def fingerprint(result: dict[str, Any]) -> str:
    """Return what ties a picture to its result file: a hash of the file's content."""
    return hashlib.sha256(json.dumps(result, sort_keys=True).encode()).hexdigest()


def _products(ax: Axes, part: dict[str, Any]) -> None:
    for i, world in enumerate(part["worlds"]):
        counts = [record["K"] for record in world["particles"]]
        label = "particles" if i == 0 else None
        ax.plot(counts, [r["tv"] for r in world["particles"]], "-D", color="#0072B2", label=label)
        label = "guidance, no weights" if i == 0 else None
        ax.plot([1], [world["guidance"]], "o", color="#000000", label=label)
    noise = sum(world["draws"] for world in part["worlds"]) / len(part["worlds"])
    ax.axhline(noise, linestyle=":", color="#767676", label="exact draws, as many")
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.set_xlabel("particles K")
    ax.set_ylabel("total variation to P^g Q^(1-g) / Z")
    ax.set_title(f"Guidance made exact, g = {part['gamma']:g}", loc="left")
    ax.legend(frameon=False, fontsize=9)
    ax.grid(alpha=0.25)


def _quality(ax: Axes, records: list[dict[str, Any]], key: str, label: str) -> None:
    for method, (colour, marker, name) in STYLES.items():
        own = [record for record in records if record["method"] == method]
        passes = [record["passes"] for record in own]
        line = "-" if len(own) > 2 else "none"
        values = [record[key] for record in own]
        ax.plot(passes, values, linestyle=line, marker=marker, color=colour, label=name, alpha=0.85)
    ax.set_xscale("log", base=2)
    ax.set_xlabel("forward passes per text")
    ax.set_ylabel(label)
    ax.legend(frameon=False, fontsize=9)
    ax.grid(alpha=0.25)

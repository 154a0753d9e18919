"""Write the figures of a part as a table in Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dlm_eval.comparison.presets.differences import against
from dlm_eval.comparison.presets.summary import Figure, PartFigures


def table_of(part: PartFigures, baselines: Sequence[str] = ()) -> list[str]:
    """Return the lines of the table, with a column for the difference to each baseline."""
    quality = ("perplexity", "entropy", "MAUVE") if part.judged else ("right in %", "different")
    mauve = any(figure.mauve is not None for figure in part.figures)
    heads = ["setting", "NFE", *(head for head in quality if mauve or head != "MAUVE")]
    heads += [f"against {name}" for name in baselines] + ["seconds per sample"]
    lines = [
        f"## {part.name}",
        "",
        f"`{part.model}`, n = {part.samples}, protocol {part.protocol_hash}.",
        "",
        f"| {' | '.join(heads)} |",
        "| --- " * len(heads) + "|",
    ]
    for figure in part.figures:
        gaps = [against(part, figure, name) for name in baselines]
        told = ["" if gap is None else f"{gap} ({gap.outcome})" for gap in gaps]
        cells = [figure.label, f"{figure.nfe:.1f}", *_quality(figure, part.judged, mauve)]
        lines.append(f"| {' | '.join([*cells, *told, f'{figure.seconds:.3f}'])} |")
    if part.references is not None:
        cells = [part.references.label, "", *_quality(part.references, part.judged, mauve)]
        lines.append(f"| {' | '.join([*cells, *('' for _ in baselines), ''])} |")
    return [*lines, *(f"\nRefused: {reason}" for reason in part.refused), ""]


def _quality(figure: Figure, judged: bool, mauve: bool) -> list[str]:
    if not judged:
        return [f"{100 * figure.quality:.1f} ± {100 * figure.error:.1f}", str(figure.different)]
    perplexity = math.exp(figure.quality)
    cells = [
        f"{perplexity:.1f} ± {perplexity * figure.error:.1f}",
        f"{figure.entropy:.3f} ± {figure.entropy_error:.3f}",
    ]
    if mauve:
        cells.append("" if figure.mauve is None else f"{figure.mauve:.3f}")
    return cells

"""Run the comparisons of a preset, resumed after any end, and write its page."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from dlm_eval.comparison.part import Part, Written, write_part
from dlm_eval.comparison.presets.picture import save_picture
from dlm_eval.comparison.presets.report import write_report
from dlm_eval.comparison.presets.summary import (
    Summary,
    load_summary,
    save_summary,
    summarise,
)
from dlm_eval.report.folder import versions
from dlm_sampling.jobs import Rank

SUMMARY, PAGE, PICTURE = "summary.json", "README.md", "plots.png"


def run_preset(
    parts: Sequence[Part],
    render: Callable[[Summary], str],
    out: Path,
    page: Path,
    rank: Rank,
    command: str,
    *,
    picture: bool = True,
    quiet: bool = False,
) -> bool:
    """Run what is left of a preset; write its files when all is done.

    They are results.json, samples.jsonl and report.html of all comparisons (each has the same in a
    folder of its own), summary.json, plots.png and the page.

    Args:
        parts: the comparisons.
        render: writes the page.
        out: folder; each part has a folder of its own in it.
        page: file of the page.
        rank: this process among all.
        command: repeats the run.
        picture: write plots.png.
        quiet: show no bar.

    Returns:
        False in a process that finds others still at work.
    """
    found: dict[str, Written] = {}
    for _ in range(2 if rank.world > 1 else 1):  # others may end a comparison after its first turn
        for part in parts:
            if part.name not in found:
                denoiser = part.weights.load(rank)
                written = write_part(part, denoiser, out / part.name, rank, command, quiet=quiet)
                found |= {} if written is None else {part.name: written}
    if len(found) < len(parts):
        return False
    in_order = [found[part.name] for part in parts]
    write_report(out, in_order, command)
    summary = Summary(command=command, versions=versions(), parts=tuple(map(summarise, in_order)))
    save_summary(out / SUMMARY, summary)
    if picture:
        save_picture(out / PICTURE, summary)
    place = Path(os.path.relpath(out, page.parent)) / PICTURE
    text = render(load_summary(out / SUMMARY)).replace(f"]({PICTURE})", f"]({place.as_posix()})")
    page.write_text(text, encoding="utf-8")
    return True

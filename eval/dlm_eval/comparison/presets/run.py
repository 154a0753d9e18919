"""Run the comparisons of a preset, resumed after any end, and write its page."""

from __future__ import annotations

from pathlib import Path

from dlm_eval.comparison.part import write_part
from dlm_eval.comparison.presets.picture import save_picture
from dlm_eval.comparison.presets.registry import PRESETS
from dlm_eval.comparison.presets.summary import PartFigures, Summary, save_summary, summarise
from dlm_eval.report.folder import versions
from dlm_sampling.jobs import Rank

SUMMARY, PAGE, PICTURE = "summary.json", "README.md", "plots.png"


def run_preset(name: str, out: Path, rank: Rank, command: str, *, quiet: bool = False) -> bool:
    """Run what is left of a preset; write summary.json, plots.png and README.md when all is done.

    Args:
        name: key of `PRESETS`.
        out: folder; each part has a folder of its own in it.
        rank: this process among all.
        command: repeats the run.
        quiet: show no bar.

    Returns:
        False in a process that finds others still at work.
    """
    preset = PRESETS[name]
    found: list[PartFigures] = []
    done = True
    for part in preset.parts():
        denoiser = part.weights.load(rank)
        written = write_part(part, denoiser, out / part.name, rank, command, quiet=quiet)
        if written is None:
            done = False
        else:
            found.append(summarise(written))
    if not done:
        return False
    summary = Summary(command=command, versions=versions(), parts=tuple(found))
    save_summary(out / SUMMARY, summary)
    save_picture(out / PICTURE, summary)
    (out / PAGE).write_text(preset.page(summary), encoding="utf-8")
    return True

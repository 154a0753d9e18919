"""Write the report of a preset: the figures of all its comparisons in one folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from dlm_eval.comparison.part import Written
from dlm_eval.report import Metric, Results, write_folder
from dlm_eval.report.folder import read_samples
from dlm_eval.report.results import Json

ASKED = ("prompt", "reference")


def write_report(out: Path, written: Sequence[Written], command: str) -> None:
    """Write results.json, samples.jsonl and report.html of all comparisons of a preset.

    The report of several shows one text of each setting; that of each comparison, in its own
    folder, has them side by side.

    Args:
        out: folder of the preset, which has the folder of each comparison.
        written: the comparisons.
        command: repeats the preset.
    """
    samples = [list(_samples(out, one, alone=len(written) == 1)) for one in written]
    if len(written) == 1:
        (only,), (own,) = written, samples
        write_folder(out, replace(only.results, command=command), own, plots=only.figures.plots)
        return
    plots = [
        replace(plot, title=f"{one.part.name}: {plot.title}")
        for one in written
        for plot in one.figures.plots
    ]
    shown = [text for own in samples for text in _first_texts(own)]
    every = [sample for own in samples for sample in own]
    write_folder(out, joined(written, command), every, plots=plots, shown=shown)


def joined(written: Sequence[Written], command: str) -> Results:
    """Return the figures of several comparisons, with a group for each setting of each.

    Comparisons of different protocols or counts are named in a warning.
    """
    parts = {one.part.name: one for one in written}
    metrics: list[Metric] = []
    warnings: list[str] = []
    kinds: dict[tuple[str, int], list[str]] = {}
    for name, one in parts.items():
        kinds.setdefault((one.results.protocol_hash, one.part.samples), []).append(name)
        metrics += [replace(m, group=_group(name, m.group)) for m in one.results.metrics]
        warnings += [f"{name}: {warning}" for warning in one.results.warnings]
    if len(kinds) > 1:
        told = "; ".join(f"{', '.join(names)} ({kind[0]}, n = {kind[1]})"
                         for kind, names in kinds.items())  # fmt: skip
        warnings.insert(
            0,
            "Comparisons of different protocols or counts stand in this table: compare figures "
            f"within one kind alone. {told}.",
        )
    return Results(
        command=command,
        subject={name: dict(one.results.subject) for name, one in parts.items()},
        protocol={name: dict(one.results.protocol) for name, one in parts.items()},
        metrics=tuple(metrics),
        warnings=tuple(warnings),
    )


def _samples(out: Path, one: Written, *, alone: bool) -> Iterator[dict[str, Json]]:
    for sample in read_samples(out / one.part.name):
        own = str(sample.get("group", ""))
        yield sample if alone else {**sample, "group": _group(one.part.name, own)}


def _first_texts(samples: Sequence[dict[str, Json]]) -> Iterator[dict[str, Json]]:
    """Yield the first sample of each setting, named after it; the first one has the prompt."""
    seen: set[Json] = set()
    for sample in samples:
        group = str(sample["group"])
        if group in seen:
            continue
        hidden = ("group", *(ASKED if seen else ()))
        seen.add(group)
        yield {**{k: v for k, v in sample.items() if k not in hidden}, "row": group}


def _group(part: str, group: str) -> str:
    return ", ".join(filter(None, (part, group)))

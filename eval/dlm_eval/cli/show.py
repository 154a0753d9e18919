"""Run `dlm-sampling eval show`: the results of several folders in one table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dlm_eval.cli.words import check_out, command_line
from dlm_sampling.errors import UsageError

if TYPE_CHECKING:
    from dlm_eval.report import Metric


def show(
    context: typer.Context,
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="FOLDER...", help="What commands of eval wrote, two or more."),
    ],
    *,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder for the table as results and report, with texts."),
    ] = None,
) -> None:
    """Set the results of folders side by side, and say why they are not comparable, if so.

    Figures are comparable if the protocols and the numbers of samples are the same: what differs is
    named in warnings, which stand above the table of the report too.
    """
    from dlm_eval.report import compare_folders, samples_of_folders, write_folder

    if out is not None:
        check_out(out)
        if out.resolve() in [folder.resolve() for folder in folders]:
            raise UsageError(f"--out {out}: holds one of the results; name another folder.")
    joined, _ = compare_folders(folders, mixed=True)
    for line in table_lines(joined.metrics):
        typer.echo(line)
    for warning in joined.warnings:
        typer.echo(f"Warning: {warning}", err=True)
    if out is None:
        return
    command = f"{joined.command}\n{command_line(context)}"
    write_folder(out, replace(joined, command=command), samples_of_folders(folders))
    typer.echo(f"{out}: results.json, samples.jsonl, report.html", err=True)


def table_lines(metrics: Sequence[Metric]) -> list[str]:
    """Return the figures as lines, the metrics down or across, whichever is the narrower table."""
    from dlm_eval.report.page import figure, table

    columns, rows = table(metrics)
    cells = [["", *(f"{c.name} [{c.unit}]" if c.unit else c.name for c in columns), "n"]]
    for row in rows:
        present = [metric for metric in row.figures if metric is not None]
        counts = dict.fromkeys(str(metric.n) for metric in present)
        figures = ["" if m is None else figure(m.value, m.error) for m in row.figures]
        cells.append([row.group, *figures, ", ".join(counts)])
    if len(rows) <= len(columns):
        cells = [list(column) for column in zip(*cells, strict=True)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip()
        for line in cells
    ]

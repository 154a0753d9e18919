"""Write the folder of `lsd-laws` for a browser: results.json, samples.jsonl and report.html.

The error on a toy is exact: no sample is drawn, so that its figures have n = 0 and no error.
samples.jsonl has a line for every solver: its coefficients and times, and on toys its error.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlm_eval.lsd.page import Record, distinct
from dlm_eval.report import Metric, Plot, Results, draw, write_folder
from dlm_eval.report.results import Json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EXACT = "exact law of the solver: nothing is sampled, n = 0"


def write_report(folder: Path, result: dict[str, Any], command: str) -> None:
    """Write the three files.

    Args:
        folder: see `write_folder`.
        result: what `dlm_eval.lsd.learned` wrote.
        command: repeats it.
    """
    toys, texts = result["toy"]["records"], result["text"]["records"]
    plots = [plot_of_errors(toys), plot_of_coefficients(texts)]
    write_folder(folder, results_of(result, command), solvers(result), plots=plots)


def results_of(result: dict[str, Any], command: str) -> Results:
    """Return the errors on the toys, with all that they depend on."""
    metrics = [
        Metric(name=f"TV, toy {record['number']}", value=record["tv"], unit="", n=0,
               better="smaller", note=EXACT, group=f"{record['base']}: {record['method']}")
        for record in result["toy"]["records"]
    ]  # fmt: skip
    facts = {name: {k: v for k, v in part.items() if k != "records"}
             for name, part in result.items()}  # fmt: skip
    return Results(
        command=command,
        subject={"model": "enumerable laws and tiny-books"},
        protocol={"task": "lsd-laws", **facts},
        metrics=tuple(metrics),
    )


def solvers(result: dict[str, Any]) -> Iterator[dict[str, Json]]:
    """Yield the solvers, for samples.jsonl."""
    for part in result.values():
        for record in part["records"]:
            where = "toy" if record["part"] == "toy" else "steps"
            own = {k: v for k, v in record.items() if k not in ("part", "number")}
            yield {"group": record["part"], where: record["number"], **own}


def plot_of_errors(records: Sequence[Record]) -> Plot:
    """Plot the error of every method, a panel for each solver and a dot for each toy."""
    bases, methods = distinct(records, "base"), distinct(records, "method")

    def paint(figure: Figure) -> None:
        panels: Any = figure.subplots(1, len(bases), sharey=True, squeeze=False)
        for axes, base in zip(panels[0], bases, strict=True):
            for toy, marker in zip(distinct(records, "number"), "osD^vPX*", strict=False):
                own = [r for r in records if (r["base"], r["number"]) == (base, toy)]
                places = [methods.index(r["method"]) for r in own]
                axes.plot([r["tv"] for r in own], places, marker, label=f"toy {toy}")
            axes.set_title(base, loc="left", fontsize=10)
            axes.set_xlabel("total variation")
            axes.grid(visible=True)
        panels[0, 0].set_yticks(range(len(methods)), methods)
        panels[0, 0].invert_yaxis()
        panels[0, 0].legend()

    caption = (
        "Exact total variation between the law of the solver and that of the data: nothing is "
        "sampled, so n = 0 and there is no error."
    )
    return draw("Error on enumerable laws", caption, paint, size=(13.0, 1.4 + 0.36 * len(methods)))


def plot_of_coefficients(records: Sequence[Record]) -> Plot:
    """Plot the coefficients for texts against the step, a panel for each solver and step count."""
    learnt = [record for record in records if "phi" in record]
    bases = distinct(learnt, "base")
    counts = sorted(distinct(learnt, "number"))
    methods = distinct(learnt, "method")

    def paint(figure: Figure) -> None:
        panels: Any = figure.subplots(len(bases), len(counts), squeeze=False, sharey="row")
        keys: dict[str, Any] = {}
        for line, base in zip(panels, bases, strict=True):
            for axes, count in zip(line, counts, strict=True):
                for i, method in enumerate(methods):
                    for r in learnt:
                        if (r["base"], r["number"], r["method"]) == (base, count, method):
                            (keys[method],) = axes.plot(
                                range(1, count + 1), r["phi"], marker="osD^vPX*"[i],
                                markersize=3, linewidth=1.1, color=f"C{i}",
                            )  # fmt: skip
                axes.axhline(1.0, linewidth=0.8, color="#8c8c8c")
                axes.set_title(f"{base}, {count} steps", loc="left", fontsize=9)
                axes.grid(visible=True)
        for axes in panels[-1]:
            axes.set_xlabel("step")
        for line in panels:
            line[0].set_ylabel("coefficient")
        figure.legend(keys.values(), keys.keys(), loc="outside lower left", ncols=2)

    caption = "Learnt coefficients for texts, first step to last; 1 is the solver itself."
    return draw("Coefficients", caption, paint, size=(11.5, 2.4 * len(bases) + 0.8))

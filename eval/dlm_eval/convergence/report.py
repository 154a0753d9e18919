"""Write the folder of `orders` for a browser: results.json, samples.jsonl and report.html.

No text is drawn and nothing is sampled, apart from the experiment of a paper, so that figures of
the other chains have n = 0 and no error.  samples.jsonl has a line for every chain: world, solver,
number of intervals, and the errors of its law.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dlm_eval.convergence.figure import SIZE, paint
from dlm_eval.report import Metric, Results, draw, write_folder
from dlm_eval.report.results import Json

SLOPES = {
    "slope_tv": "slope of TV",
    "last_slope_tv": "slope of TV, last doubling",
    "slope_kl": "slope of KL",
}
EXACT = "exact law of the chain: nothing is sampled, n = 0"
CAPTION = (
    "Error against NFE in six worlds of which every law is known, and an experiment of a paper, by "
    "its exact law and by sampling with intervals. Where n = 0 the law of the chain is exact and "
    "nothing is sampled."
)


def write_report(folder: Path, result: dict[str, Any]) -> None:
    """Write the three files.

    Args:
        folder: see `write_folder`.
        result: what `dlm_eval.convergence.orders` measured.
    """
    plot = draw("Error against NFE", CAPTION, lambda figure: paint(figure, result), size=SIZE)
    write_folder(folder, results_of(result), chains(result), plots=[plot])


def results_of(result: dict[str, Any]) -> Results:
    """Return the figures with all that they depend on."""
    metrics: list[Metric] = []
    for part in result["experiments"]:
        for record in part["records"]:
            metrics += _figures(f"{part['name']}: {_name(record)}", record)
    for record in result["sampled"]["records"]:
        metrics.append(_sampled(result["sampled"], record))
    sampled = {k: v for k, v in result["sampled"].items() if k != "records"}
    worlds: dict[str, Json] = {
        part["name"]: {"title": part["title"], "window": part["window"]}
        for part in result["experiments"]
    }
    return Results(
        command=result["command"],
        subject={"model": "six worlds of known laws", "worlds": worlds},
        protocol={"task": "orders", **result["settings"], "sampled": sampled, "worlds": worlds},
        metrics=tuple(metrics),
    )


def chains(result: dict[str, Any]) -> Iterator[dict[str, Json]]:
    """Yield the chains, for samples.jsonl."""
    for part in result["experiments"]:
        for record in part["records"]:
            columns = (record[key] for key in ("intervals", "nfe", "tv", "kl"))
            for intervals, nfe, tv, kl in zip(*columns, strict=True):
                yield {
                    "group": part["name"],
                    "solver": _name(record),
                    "intervals": intervals,
                    "nfe": nfe,
                    "tv": tv,
                    "kl": kl,
                }
    for record in result["sampled"]["records"]:
        own = {key: value for key, value in record.items() if key != "method"}
        name = f"{result['sampled']['experiment']}, sampled"
        yield {"group": name, "solver": record["method"], **own}


def _figures(group: str, record: dict[str, Any]) -> Iterator[Metric]:
    for key, name in SLOPES.items():
        if key in record:
            yield Metric(name=name, value=record[key], unit="", n=0, better="larger", note=EXACT,
                         group=group)  # fmt: skip
    note = f"at NFE {record['nfe'][-1]}; {EXACT}"
    for key, unit in (("tv", ""), ("kl", "nats")):
        yield Metric(name=f"{key.upper()} at the largest NFE", value=record[key][-1], unit=unit,
                     n=0, better="smaller", note=note, group=group)  # fmt: skip


def _sampled(part: dict[str, Any], record: dict[str, Any]) -> Metric:
    note = (
        f"{100 * part['level']:g} % bootstrap interval {record['low']:.4g} to "
        f"{record['high']:.4g}; exact {record['exact_kl']:.4g}"
    )
    group = f"{part['experiment']}, sampled: {record['method']}, {record['intervals']} intervals"
    return Metric(name="KL", value=record["kl"], unit="nats", n=part["samples"], better="smaller",
                  note=note, group=group)  # fmt: skip


def _name(record: dict[str, Any]) -> str:
    return f"wrong: {record['method']}" if record["wrong"] else record["method"]

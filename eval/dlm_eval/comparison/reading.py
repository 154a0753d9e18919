"""Which sampler is better than its baseline at the same NFE: arithmetic on the result file.

A baseline is measured at a few NFE; between them its value is linear in log NFE, outside it is that
of the nearest one.  A difference counts when it exceeds two standard errors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt

from dlm_eval.comparison.cells import BASELINES

Record = dict[str, Any]
Floats = npt.NDArray[np.float64]
ERRORS = 2.0
OUTCOMES = ("better", "better, less varied", "same", "worse")


@dataclass(frozen=True)
class Verdict:
    """One record against its baseline.

    Fields:
        nfe: measured forward passes per row.
        outcome: "better", "same" or "worse"; for text also "better, less varied".
        delta: the record's value minus the baseline's.
        error: standard error of delta.
    """

    nfe: float
    outcome: str
    delta: float
    error: float


Judge = Callable[[Record, Sequence[Record], int], Verdict]
Found = dict[tuple[str, str, str], list[Verdict]]


def measured(part: Record) -> list[Record]:
    """Records of a world that hold a result."""
    return [record for record in part["records"] if "refused" not in record]


def series(records: Iterable[Record]) -> list[tuple[tuple[str, str], list[Record]]]:
    """Records by sampler and law, in the order of the file."""

    def key(record: Record) -> tuple[str, str]:
        return record["sampler"], record["law"]

    return [(name, list(group)) for name, group in groupby(records, key)]


def baseline(records: Sequence[Record], law: str, name: str) -> list[Record]:
    """The baseline's records, by NFE."""
    wanted = (name, "plain" if law == "own" else law)
    found = [record for record in records if (record["sampler"], record["law"]) == wanted]
    return sorted(found, key=lambda record: record["nfe"])


def weights(points: Sequence[Record], nfe: float) -> Floats:
    """Weights of the baseline's records that interpolate at `nfe`, linear in log NFE."""
    places = np.log([record["nfe"] for record in points])
    basis = np.eye(len(points))
    return np.array([np.interp(math.log(nfe), places, row) for row in basis])


def judge_text(record: Record, points: Sequence[Record], samples: int) -> Verdict:
    """Judge's nats per token, row against row; "less varied" if the entropy fell as well."""
    delta, error = _paired(record, points, "nats", samples)
    varied, spread = _paired(record, points, "entropy", samples)
    outcome = _outcome(-delta, error)
    if outcome == "better" and varied < -ERRORS * spread:
        outcome = "better, less varied"
    return Verdict(record["nfe"], outcome, delta, error)


def judge_sudoku(record: Record, points: Sequence[Record], samples: int) -> Verdict:
    """Valid fraction, as of independent samples."""
    w = weights(points, record["nfe"])
    base = float(w @ np.array([point["valid"] / samples for point in points]))
    variances = np.array([variance(point["valid"], samples) for point in points])
    error = math.sqrt(float(w**2 @ variances) + variance(record["valid"], samples))
    delta = record["valid"] / samples - base
    return Verdict(record["nfe"], _outcome(delta, error), delta, error)


def variance(successes: int, samples: int) -> float:
    """Of a fraction, from one success and one failure more, so that it is never 0."""
    p = (successes + 1) / (samples + 2)
    return p * (1 - p) / samples


def mean_and_error(values: Sequence[float] | Floats) -> tuple[float, float]:
    """Mean over rows and its standard error."""
    array = np.asarray(values, dtype=np.float64)
    return float(array.mean()), float(array.std(ddof=1) / math.sqrt(len(array)))


def findings(world: str, part: Record) -> dict[str, Found]:
    """Verdicts of a world by task."""
    records, samples = measured(part), part["settings"]["samples"]
    tasks = dict.fromkeys(record["task"] for record in records)
    by_task = {task: [r for r in records if r["task"] == task] for task in tasks}
    return {task: verdicts(rows, samples, JUDGES[world]) for task, rows in by_task.items()}


def verdicts(records: Sequence[Record], samples: int, judge: Judge) -> Found:
    """By sampler, law and baseline: one verdict per record, in order of NFE.

    Records of one task only.
    """
    found: Found = {}
    for (name, law), group in series(records):
        for base in BASELINES[law]:
            points = baseline(records, law, base)
            if not points or name == base:
                continue
            ordered = sorted(group, key=lambda record: record["nfe"])
            found[name, law, base] = [judge(record, points, samples) for record in ordered]
    return found


JUDGES: dict[str, Judge] = {"text": judge_text, "sudoku": judge_sudoku}


def _paired(
    record: Record, points: Sequence[Record], field: str, samples: int
) -> tuple[float, float]:
    rows = weights(points, record["nfe"]) @ np.array([point[field] for point in points])
    return mean_and_error(np.array(record[field]) - rows)


def _outcome(gain: float, error: float) -> str:
    """Of a gain, positive where the record is better."""
    if abs(gain) <= ERRORS * error:
        return "same"
    return "better" if gain > 0 else "worse"

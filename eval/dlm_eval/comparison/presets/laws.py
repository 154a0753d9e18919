"""Run the presets "orders" and "lsd-laws": exact laws of chains in small worlds, without samples.

No text is drawn that a judge could read, so they have no parts; they resume and write their files
as the other presets do.  samples.jsonl has a line for every chain, or solver, that was measured.
"""

from __future__ import annotations

from pathlib import Path

from dlm_eval.comparison.code import code_digest
from dlm_eval.convergence import orders
from dlm_eval.convergence import report as orders_report
from dlm_eval.journal import Journal
from dlm_eval.lsd import learned
from dlm_eval.lsd import report as lsd_report


def run_orders(out: Path, page: Path, command: str) -> None:
    """Measure orders of convergence; write OUT/orders.json, OUT/orders.png, the page and a report.

    The report is results.json, samples.jsonl and report.html, as of every evaluation.

    Raises:
        SettingsChanged: the journal in the folder is that of other code.
    """
    facts = {"samples": orders.SAMPLES, "seed": orders.SEED, "code": code_digest([])}
    journal = Journal(out / "orders.jsonl", facts)
    result = orders.measure(orders.SAMPLES, orders.SEED, command, journal)
    orders.write(result, out / "orders.json", out / "orders.png", page)
    orders_report.write_report(out, result)


def run_lsd(out: Path, page: Path, command: str) -> None:
    """Learn the coefficients of LSD, with their exact errors; write OUT/learned.json and a report.

    The report is that of every evaluation.  There is no page: that of the preset "lsd" has them,
    beside texts.

    Raises:
        SettingsChanged: a journal in the folder was begun with other settings.
    """
    out.mkdir(parents=True, exist_ok=True)
    result = learned.measure_all(out / learned.RESULT.name)
    lsd_report.write_report(out, result, command)

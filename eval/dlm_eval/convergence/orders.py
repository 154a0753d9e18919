"""Orders of convergence by exact law propagation: a result file, a figure and a page, in one go.

    dlm-sampling eval compare --preset orders --out eval/results --page eval/ORDERS.md
    python -m dlm_eval.convergence.orders

write eval/results/orders.json, eval/results/orders.png and eval/ORDERS.md; the first goes on where
it was ended.  No number has sampling noise, apart from the part that repeats an experiment of a
paper by sampling.
"""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from tqdm import tqdm

import dlm_sampling
from dlm_eval.convergence.page import LINKS, render
from dlm_eval.convergence.plan import experiments, identities, record
from dlm_eval.convergence.rules import THETA
from dlm_eval.convergence.sampled import sample_all
from dlm_eval.convergence.worlds import HORIZON, MASKS_END
from dlm_eval.journal import Journal
from dlm_eval.program import check_result, start

COMMAND = "python -m dlm_eval.convergence.orders"
SAMPLES, SEED = 200_000, 0
LEAST_SAMPLES = 100_000  # with fewer, a state of probability 1e-4 may never be seen: KL is infinite


def environment() -> dict[str, str]:
    """Versions that the result was made with."""
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
        "matplotlib": version("matplotlib"),
        "dlm_sampling": dlm_sampling.__version__,
    }


def measure(
    samples: int, seed: int, command: str, journal: Journal | None = None
) -> dict[str, Any]:
    """Return everything that the result file holds.

    Args:
        samples: rows of the sampled experiment.
        seed: of the sampled experiment.
        command: repeats it.
        journal: keeps the solvers that are done, so that a killed run goes on.
    """
    known = {} if journal is None else {row["solver"]: row["record"] for row in journal.records}
    plan = experiments()
    parts: list[dict[str, Any]] = []
    bar = tqdm(total=sum(len(e.pairings()) for e in plan.values()), unit="solver", disable=None)
    for name, experiment in plan.items():
        records: list[dict[str, Any]] = []
        for method in experiment.pairings():
            bar.set_description(name)
            key = f"{name}: {method}"
            if key not in known:
                known[key] = record(experiment, method)
                if journal is not None:
                    journal.append({"solver": key, "record": known[key]})
            records.append(known[key])
            bar.update()
        parts.append(
            {
                "name": name,
                "title": experiment.title,
                "window": list(experiment.window),
                "law": experiment.world.joint.tolist(),
                "records": records,
            }
        )
    bar.close()
    return {
        "command": command,
        "environment": environment(),
        "settings": {"theta": THETA, "horizon": HORIZON, "masks end": MASKS_END},
        "experiments": parts,
        "identities": identities(),
        "sampled": sample_all(plan["token"], samples, seed),
    }


def as_text(result: dict[str, Any]) -> str:
    """JSON with one record per line."""
    lines: list[str] = []

    def place(records: list[Any]) -> list[str]:
        lines.extend(map(json.dumps, records))
        return [f"@{len(lines) - len(records) + i}" for i in range(len(records))]

    parts = [
        {**part, "law": place([part["law"]])[0], "records": place(part["records"])}
        for part in result["experiments"]
    ]
    sampled = {**result["sampled"], "records": place(result["sampled"]["records"])}
    text = json.dumps({**result, "experiments": parts, "sampled": sampled}, indent=1)
    for i, line in enumerate(lines):
        text = text.replace(f'"@{i}"', line, 1)
    return text + "\n"


def write(result: dict[str, Any], out: Path, figure: Path, page: Path) -> None:
    """Write the result file, the figure and the page with links to them."""
    from dlm_eval.convergence.figure import draw

    _write(out, as_text(result).encode())
    _write(figure, draw(result))
    near = [Path(os.path.relpath(file, page.parent)).as_posix() for file in (out, figure)]
    links = dict(zip(LINKS, near, strict=True))
    _write(page, render(result, links).encode())


def _write(path: Path, data: bytes) -> None:
    """In one piece, so that a killed run leaves no half file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".tmp")
    draft.write_bytes(data)
    os.replace(draft, path)


def main(
    out: Annotated[Path, typer.Option(help="Result file (JSON).")] = Path(
        "eval/results/orders.json"
    ),
    figure: Annotated[Path, typer.Option(help="Figure (PNG).")] = Path("eval/results/orders.png"),
    page: Annotated[Path, typer.Option(help="Page with figure and tables.")] = Path(
        "eval/ORDERS.md"
    ),
    samples: Annotated[
        int, typer.Option(min=LEAST_SAMPLES, help="Rows of the sampled experiment.")
    ] = SAMPLES,
    seed: Annotated[int, typer.Option(help="Seed of the sampled experiment.")] = SEED,
) -> None:
    """Measure the orders; write the result file, the figure and the page."""
    if find_spec("matplotlib") is None:
        typer.echo(
            'Error: the figure needs matplotlib; install it with pip install ".[eval]".', err=True
        )
        raise typer.Exit(1)
    check_result(out, figure, page)
    result = measure(samples, seed, f"{COMMAND} --samples {samples} --seed {seed}")
    write(result, out, figure, page)
    typer.echo(f"Wrote {out}, {figure} and {page}")


if __name__ == "__main__":
    start(main)

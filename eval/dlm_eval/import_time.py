"""How long imports take: ours beside those of torch and transformers, which everyone pays.

Run: python -m dlm_eval.import_time [--repeat N] [--json]
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from typing import Annotated, NamedTuple

import typer

from dlm_eval.program import start

STATEMENTS = (
    "pass",
    "import torch, transformers",
    "import dlm_sampling",
    "from dlm_sampling import generate, AutoDenoiser",
)


class Cost(NamedTuple):
    """Seconds of a fresh interpreter: by the clock, and of processor time."""

    wall: float
    cpu: float


def cost_of(statement: str) -> Cost:
    """What a fresh interpreter that runs one statement costs."""
    before, begun = os.times(), time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    wall, after = time.perf_counter() - begun, os.times()
    spent = after.children_user + after.children_system
    return Cost(wall, spent - before.children_user - before.children_system)


def measure(repeat: int) -> dict[str, Cost]:
    """Medians per statement; the first, cold round is not counted."""
    rounds = [[cost_of(statement) for statement in STATEMENTS] for _ in range(repeat + 1)]
    columns = zip(*rounds[1:], strict=True)
    medians = (Cost(*map(statistics.median, zip(*column, strict=True))) for column in columns)
    return dict(zip(STATEMENTS, medians, strict=True))


def main(
    repeat: Annotated[int, typer.Option(min=1, help="Rounds that are counted.")] = 5,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Print the median time of each import in a fresh interpreter."""
    costs = measure(repeat)
    if as_json:
        print(json.dumps({statement: cost._asdict() for statement, cost in costs.items()}))
        return
    print("  wall s   cpu s")
    for statement, cost in costs.items():
        print(f"{cost.wall:8.2f}{cost.cpu:8.2f}  {statement}")


if __name__ == "__main__":
    start(main)

"""Reads the result files and writes what they say into kernels/RESULTS.md.

    python kernels/benchmarks/write_page.py            # write the page
    python kernels/benchmarks/write_page.py --check    # exit 1 if it is not what the files say

Dry and small runs are left out: they prove nothing about the time on a GPU.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "RESULTS.md"
HEADER = """# Measured on a GPU

This page is written by `python kernels/benchmarks/write_page.py` from the files in
`kernels/benchmarks/results`.
"""
NOTHING = """
There are no result files: **no GPU has run these kernels.** What is known without one stands in
[STATUS.md](STATUS.md).
"""
_HIDDEN = {"name", "passed", "graph_error"}


def page(folder: Path) -> str:
    """The page that the result files in a folder make."""
    files = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    files = [found for found in files if not (found["dry_run"] or found["small"])]
    if not files:
        return HEADER + NOTHING
    return HEADER + "".join(section(found) for found in files)


def section(found: dict[str, Any]) -> str:
    """One part: where it ran, what failed, and a table of its cases."""
    cases = found["cases"]
    checks = [case["passed"] for case in cases if case.get("passed") is not None]
    lines = [
        f"\n## {found['part']}\n",
        f"{found['device']}, driver {found['driver']}, torch {found['torch']}, triton "
        f"{found['triton']}, CUDA {found['cuda']}, {found['date']}, commit {found['commit']}.",
    ]
    if not found["complete"]:
        lines.append("The time ran out before all cases were measured.")
    if checks:
        lines.append(f"{sum(checks)} of {len(checks)} checks passed.")
    bars = [case["within_bar"] for case in cases if case.get("within_bar") is not None]
    if bars:
        lines.append(f"{sum(bars)} of {len(bars)} cases with a bar lie within it.")
    names = [name for name in dict.fromkeys(key for case in cases for key in case)]
    names = [name for name in names if name not in _HIDDEN and not name.endswith("quartiles_us")]
    heads = ["case", *names, *(["passed"] if checks else [])]
    rows = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    for case in cases:
        cells = [case["name"], *(text(case.get(name)) for name in names)]
        cells += [text(case.get("passed"))] if checks else []
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *rows, ""])


def text(value: Any) -> str:
    """A cell."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def main() -> int:
    """Write the page, or compare it."""
    wanted = page(HERE / "results")
    if "--check" in sys.argv[1:]:
        return 0 if PAGE.exists() and PAGE.read_text() == wanted else 1
    PAGE.write_text(wanted)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

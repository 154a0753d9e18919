"""Runs the kernels on a GPU, checks them, and measures them: one command, one result file each.

    python kernels/benchmarks all                 # correctness first; the others stop if it fails
    python kernels/benchmarks floor --seconds 240
    python kernels/benchmarks all --dry-run       # no GPU: tiny shapes under Triton's interpreter

A result file names the device, its driver and the versions; `write_page.py` beside this file turns
them into kernels/RESULTS.md.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PARTS = ("correctness", "library", "floor", "positions", "head", "loop", "recorded", "cached")


def main() -> int:
    """Run the parts asked for; 0 if all that was checked holds."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("part", choices=[*PARTS, "all"])
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder of the files")
    parser.add_argument("--seconds", type=float, default=480.0, help="stop new cases after so long")
    parser.add_argument("--small", action="store_true", help="tiny shapes; for a memory checker")
    parser.add_argument("--dry-run", action="store_true", help="no GPU: tiny shapes, interpreter")
    options = parser.parse_args()
    if options.dry_run:
        os.environ["TRITON_INTERPRET"] = "1"  # read when triton is first imported
    os.environ["DLM_KERNELS"] = "torch"  # the kernels are called by name here
    sys.path[:0] = [str(ROOT), str(ROOT / "kernels"), str(ROOT / "eval")]
    from machine import NoGPUError, Report

    end = time.monotonic() + options.seconds
    for part in PARTS if options.part == "all" else (options.part,):
        try:
            report = Report.begin(part, dry=options.dry_run, small=options.small, end=end)
        except NoGPUError as error:
            print(error, file=sys.stderr)
            return 2
        try:
            importlib.import_module(part).run(report)
        finally:
            print(f"{part}: {report.write(options.out)}")
        if not report.passed:
            failed = [case for case in report.cases if case.get("passed") is False]
            print(f"{part} failed: {failed}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

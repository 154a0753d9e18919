"""Makes thousands of random calls of `generate`, and writes what broke to a result file.

    python -m dlm_eval.robustness.fuzz

Every sampler is called under every noise that it runs on; half of the calls are right, half have
one wrong argument.  A call that breaks an invariant does not end the run: every kind of break is
written once, with a call that shows it.  A run that was killed goes on at the next sampler.
"""

from __future__ import annotations

import json
import os
import re
import time
import zlib
from pathlib import Path
from typing import Annotated, Any

import typer
from hypothesis import HealthCheck, Phase, given, seed, settings
from tqdm import tqdm

import dlm_sampling
from dlm_eval.program import check_result, start
from dlm_eval.robustness.calls import PAIRS, Call, calls
from dlm_eval.robustness.invariants import judge


def fuzz(name: str, kind: str, count: int, start: int, *, wrong: bool) -> dict[str, Any]:
    """Make `count` calls of a sampler; return their number and one example of every break."""
    made = refused = 0
    broken: dict[str, str] = {}

    @seed(start)
    @settings(
        max_examples=count, database=None, deadline=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(calls(name, kind, wrong=wrong))
    def run(call: Call) -> None:
        nonlocal made, refused
        verdict = judge(call)
        made += 1
        refused += verdict.refused is not None
        for line in verdict.broken:
            what = re.sub(r"\d+", "#", f"{call.wrong or 'right'}: {line[:100]}")
            broken.setdefault(what, f"{line}  <-  {call}")

    run()
    return {"calls": made, "refused": refused, "broken": broken}


def main(
    count: Annotated[int, typer.Option(help="Calls in all, about.")] = 10_000,
    start: Annotated[int, typer.Option("--seed", help="Seed of the calls.")] = 0,
    out: Annotated[Path, typer.Option(help="Result file (JSON).")] = Path("eval/results/fuzz.json"),
) -> None:
    """Make random calls and write the result file; exit with 1 if an invariant broke."""
    check_result(out)
    each = -(-count // (2 * len(PAIRS)))
    command = f"python -m dlm_eval.robustness.fuzz --count {count} --seed {start}"
    result: dict[str, Any] = {"command": command, "dlm_sampling": dlm_sampling.__version__}
    pairs: dict[str, Any] = {}
    if out.exists():
        found = json.loads(out.read_text())
        if found.get("command") == command and len(found["pairs"]) < len(PAIRS):
            pairs = found["pairs"]
    for name, kind in tqdm(PAIRS, unit="sampler", disable=None):
        pair = f"{name}, {kind}"
        if pair in pairs:
            continue
        began, own = time.perf_counter(), start + zlib.crc32(pair.encode())
        right, wrong = (fuzz(name, kind, each, own, wrong=wrong) for wrong in (False, True))
        pairs[pair] = {
            "calls": right["calls"] + wrong["calls"],
            "refused": right["refused"] + wrong["refused"],
            "broken": right["broken"] | wrong["broken"],
            "seconds": round(time.perf_counter() - began, 1),
        }
        totals = {k: sum(p[k] for p in pairs.values()) for k in ("calls", "refused")}
        partial = out.with_suffix(".partial")
        partial.write_text(json.dumps({**result, **totals, "pairs": pairs}, indent=1) + "\n")
        os.replace(partial, out)
    broken = [f"{pair}: {what}" for pair, part in pairs.items() for what in part["broken"]]
    for line in broken:
        typer.echo(line)
    typer.echo(f"{sum(p['calls'] for p in pairs.values())} calls, {len(broken)} breaks: {out}")
    raise typer.Exit(1 if broken else 0)


if __name__ == "__main__":
    start(main)

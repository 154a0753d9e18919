"""Kill a batch job again and again, and compare its bytes with those of one undisturbed run.

    python -m dlm_eval.kill_storm --kills 30 --out eval/results/kill_storm.json

A round starts one to three processes of the command on the same folder, waits until new rows have
appeared and a random time longer, and sends SIGKILL to all of them.  After the last kill the same
command finishes the job.  The report says whether manifest, card and every file of `data/` equal
those of a run in one process that nobody disturbed.
"""

from __future__ import annotations

import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import torch
import typer

from dlm_eval.program import check_result, command_of
from dlm_eval.program import start as start_program
from dlm_sampling.errors import UsageError

LIMIT = 3600.0
"""Seconds after which a process counts as hanging."""
WORDS = ("Once", "upon", "a", "time", "there", "was", "little", "girl", "in", "the", "forest")


def write_prompts(path: Path, count: int) -> None:
    """Write prompts of different length as JSON lines with ids."""
    dice = random.Random(0)
    lines = [
        {"id": f"row {n}", "prompt": " ".join(dice.choices(WORDS, k=dice.randint(1, 12)))}
        for n in range(count)
    ]
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")


def start(
    prompts: Path, folder: Path, model: str, rank: int, world: int
) -> subprocess.Popen[bytes]:
    """Start one process of the job."""
    command = ["generate", "--input", str(prompts), "--output", f"{folder}/", "--model", model]
    command += ["--sampler", "ancestral", "--max-new-tokens", "16", "--steps", "8", "--quiet"]
    command += ["--shard-rows", "16", "--batch-size", "4"]
    return subprocess.Popen(
        [sys.executable, "-m", "dlm_sampling", *command],
        env=os.environ | {"DLM_SHARD": f"{rank}/{world}", "OMP_NUM_THREADS": "1"},
    )


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file of a job but its logs."""
    files = [p for p in folder.rglob("*") if p.is_file() and p.parent.name != "logs"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def pieces(folder: Path) -> list[str]:
    """Return the names of the files of batches and shards that are there."""
    return sorted(path.name for room in ("data", "partial") for path in (folder / room).glob("*-*"))


def storm(prompts: Path, folder: Path, model: str, kills: int, seed: int) -> list[int]:
    """Kill processes until `kills` have died at work; return the processes of every round."""
    dice, rounds, killed = random.Random(seed), [], 0
    while killed < kills and not (folder / "_SUCCESS").exists():
        world = dice.randint(1, 3)
        rounds.append(world)
        before = pieces(folder)
        running = [start(prompts, folder, model, rank, world) for rank in range(world)]
        while pieces(folder) == before and any(p.poll() is None for p in running):
            time.sleep(0.005)
        time.sleep(dice.uniform(0, 0.1))
        killed += sum(process.poll() is None for process in running)
        for process in running:
            process.kill()
        for process in running:
            process.wait(LIMIT)
    return [*rounds, killed]


def main(
    out: Annotated[Path, typer.Option(help="Result file (JSON).")],
    prompts: Annotated[int, typer.Option(min=1, help="Rows of the job.")] = 400,
    kills: Annotated[int, typer.Option(min=1, help="Processes that die at work.")] = 30,
    model: Annotated[str, typer.Option(help="Embedded model, folder or name on the hub.")] = (
        "tiny-books"
    ),
    seed: Annotated[int, typer.Option(help="Seed of the moments of death.")] = 0,
) -> None:
    """Run the storm and write the report."""
    check_result(out)
    with tempfile.TemporaryDirectory() as name:
        given, clean, folder = (Path(name) / n for n in ("prompts.jsonl", "clean", "out"))
        write_prompts(given, prompts)
        undisturbed = start(given, clean, model, 0, 1).wait(LIMIT)
        if undisturbed != 0:
            raise UsageError(f"The undisturbed job ended with code {undisturbed}; see above.")
        *rounds, killed = storm(given, folder, model, kills, seed)
        done = (folder / "_SUCCESS").exists()
        last = start(given, folder, model, 0, 1).wait(LIMIT)
        same = contents(clean) == contents(folder)
        report = {
            "command": command_of("dlm_eval.kill_storm"),
            "rows": prompts,
            "files": len(list((clean / "data").iterdir())),
            "rounds": len(rounds),
            "processes": sum(rounds),
            "killed": killed,
            "done_before_the_last_start": done,
            "exit_codes": [undisturbed, last],
            "byte_identical": same,
            "model": model,
            "seed": seed,
            "torch": torch.__version__,
            "python": platform.python_version(),
        }
    out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=1))
    raise typer.Exit(0 if same else 1)


if __name__ == "__main__":
    start_program(main)

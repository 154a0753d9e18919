"""Every sampler on the embedded models, with quality, NFE and time: a result file and its page.

    python -m dlm_eval.comparison.samplers --books PATH/TO/books --out eval/results/samplers.json

A killed run continues where it was: each finished measurement is a line in a journal beside the
result file.  `dlm_eval.comparison.page` turns the result file into eval/SAMPLERS.md.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import transformers
import typer
from torch import Tensor
from tqdm import tqdm

import dlm_sampling
from dlm_eval.comparison.cells import Cell, is_experimental
from dlm_eval.comparison.page import render
from dlm_eval.journal import Journal, SettingsChanged
from dlm_eval.tasks.worlds import GRIDS, TEXTS, SudokuWorld, TextWorld, World, text_world
from dlm_sampling import samplers
from dlm_sampling.errors import unknown_sampler

Outcome = tuple[Cell, Tensor | None, dict[str, Any]]
_WORKING: list[World] = []


def environment(workers: int) -> dict[str, Any]:
    """What the times depend on."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    model = next((line.split(":")[1].strip() for line in lines if "model name" in line), "")
    return {
        "device": f"CPU ({model or platform.machine()})",
        "threads per process": 1,
        "processes": workers,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "dlm_sampling": dlm_sampling.__version__,
    }


def identity(cell: Cell) -> str:
    """What makes a cell the same one in a later run."""
    return json.dumps([cell.task, cell.sampler, cell.law, cell.steps, cell.option])


def measure(world: World, cells: Sequence[Cell], journal: Journal, workers: int) -> None:
    """Measure what the journal lacks of `cells`.

    Raises:
        SettingsChanged: a sampler's parameters differ from those of its record.
    """
    known = {_identity(record): record for record in journal.records}
    missing: list[Cell] = []
    for cell in cells:
        record = known.get(identity(cell))
        if record is None:
            missing.append(cell)
        elif record["rule"] != cell.rule:
            raise SettingsChanged(
                f"{journal.path}: {cell.sampler} was {record['rule']} and is now {cell.rule}; "
                "delete the journal to measure again."
            )
    done = len(cells) - len(missing)
    with tqdm(desc=world.name, total=len(cells), initial=done, unit="cell", mininterval=1.0) as bar:
        for cell, tokens, facts in _outcomes(world, missing, workers):
            score = {} if tokens is None else world.score(cell.task, tokens)
            journal.append({**asdict(cell), "rule": cell.rule, **score, **facts})
            bar.set_postfix_str(f"{cell.sampler} {cell.law}", refresh=False)
            bar.update()


def _identity(record: dict[str, Any]) -> str:
    fields = ("task", "sampler", "law", "steps", "option")
    return json.dumps([record[name] for name in fields])


def _outcomes(world: World, cells: Sequence[Cell], workers: int) -> Iterator[Outcome]:
    """Run the cells here, or in processes of one thread each; in any order."""
    light = replace(world, judge=None) if isinstance(world, TextWorld) else world
    if not cells:
        return
    if workers == 1:
        _begin(light)
        yield from map(_work, cells)
        return
    with multiprocessing.get_context("spawn").Pool(workers, _begin, (light,)) as pool:
        yield from pool.imap_unordered(_work, cells)


def _begin(world: World) -> None:
    """Prepare a process: the first forward pass of all is slow, and counts for nobody."""
    torch.set_num_threads(1)
    _WORKING[:] = [world]
    world.run(world.cells(["ancestral"])[0])


def _work(cell: Cell) -> Outcome:
    try:
        tokens, facts = _WORKING[0].run(cell)
    except (ValueError, TypeError) as error:  # a sampler of another noise process, say
        return cell, None, {"refused": str(error)}
    return cell, tokens, facts


def collect(world: World, journal: Journal, names: Sequence[str]) -> dict[str, Any]:
    """The part of the result file that belongs to a world: records in the order of the plan."""
    known = {_identity(record): record for record in journal.records}
    plan = [identity(cell) for cell in world.cells(names)]
    records = [known[key] for key in plan if key in known]
    experimental = [name for name in names if is_experimental(name)]
    part = {
        "command": command(world, journal.settings["environment"]["processes"]),
        **journal.settings,
        "planned": len(plan),
        "experimental": experimental,
    }
    if isinstance(world, TextWorld):
        part["reference"] = world.reference()
    return {**part, "records": records}


def command(world: World, workers: int) -> str:
    """The command that measures this world alone."""
    books = " --books FOLDER" if isinstance(world, TextWorld) else ""
    return (
        f"python -m dlm_eval.comparison.samplers --worlds {world.name}{books} "
        f"--samples {world.samples} --workers {workers}"
    )


def write_result(out: Path, parts: dict[str, Any]) -> dict[str, Any]:
    """Replace the measured worlds in the result file, in one piece; other worlds stay."""
    worlds: dict[str, Any] = {}
    if out.exists():
        worlds.update(json.loads(out.read_text(encoding="utf-8"))["worlds"])
    worlds.update(parts)
    result = {"worlds": {name: worlds[name] for name in ("text", "sudoku") if name in worlds}}
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = out.with_suffix(".tmp")
    draft.write_text(as_text(result), encoding="utf-8")
    os.replace(draft, out)
    return result


def as_text(result: dict[str, Any]) -> str:
    """JSON with one record per line."""
    lines: list[str] = []
    worlds: dict[str, Any] = {}
    for name, part in result["worlds"].items():
        places = [f"@{len(lines) + i}" for i in range(len(part["records"]))]
        lines += map(json.dumps, part["records"])
        worlds[name] = {**part, "records": places}
    text = json.dumps({**result, "worlds": worlds}, indent=1)
    return re.sub(r'"@(\d+)"', lambda place: lines[int(place[1])], text) + "\n"


def measurable() -> list[str]:
    """Names of the samplers that run on masks: both embedded models are masked."""
    return [name for name, entry in samplers.available().items() if "absorbing" in entry.runs_on]


def _chosen(only: Sequence[str]) -> list[str]:
    known = measurable()
    for name in only:
        if name not in known:
            raise unknown_sampler(name, known)
    return [name for name in known if not only or name in only]


def _worlds(which: str, books: Path | None, split: Path, samples: int | None) -> list[World]:
    if which not in ("both", "text", "sudoku"):
        raise ValueError(f"--worlds {which!r}: must be both, text or sudoku.")
    worlds: list[World] = []
    if which != "text":
        worlds.append(SudokuWorld(samples=samples or GRIDS))
    if which != "sudoku":
        if books is None:
            raise ValueError("--books: the text world needs a folder of plain-text books.")
        worlds.append(text_world(books, split, samples=samples or TEXTS))
    return worlds


def measure_world(
    world: World, names: Sequence[str], chosen: Sequence[str], out: Path, workers: int
) -> dict[str, Any]:
    """Measure the chosen samplers in a world and return its part of the result."""
    journal = Journal(
        out.with_suffix(f".{world.name}.jsonl"),
        {"settings": world.settings(), "environment": environment(workers)},
    )
    measure(world, world.cells(chosen), journal, workers)
    return collect(world, journal, names)


def main(
    out: Annotated[Path, typer.Option(help="Result file; the journals lie beside it.")] = Path(
        "eval/results/samplers.json"
    ),
    books: Annotated[Path | None, typer.Option(help="Folder of plain-text books.")] = None,
    split: Annotated[
        Path, typer.Option(help="Python file with TRAIN_BOOKS and HELD_OUT_BOOKS; read, not run.")
    ] = Path("examples/train_tiny.py"),
    page: Annotated[Path, typer.Option(help="Page to write from the result file.")] = Path(
        "eval/SAMPLERS.md"
    ),
    only: Annotated[list[str] | None, typer.Option(help="A sampler; repeat the option.")] = None,
    worlds: Annotated[str, typer.Option(help="text, sudoku or both.")] = "both",
    samples: Annotated[
        int | None, typer.Option(min=2, help="Rows per cell; default 400 grids, 16 texts.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes, one thread each.")] = 2,
) -> None:
    """Measure every sampler; write the result file and the page."""
    try:
        chosen, names = _chosen(only or []), measurable()
        parts = {
            world.name: measure_world(world, names, chosen, out, workers)
            for world in _worlds(worlds, books, split, samples)
        }
    except (ValueError, OSError) as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(1) from error
    page.write_text(render(write_result(out, parts)), encoding="utf-8")
    typer.echo(f"Wrote {out} and {page}")


if __name__ == "__main__":
    typer.run(main)

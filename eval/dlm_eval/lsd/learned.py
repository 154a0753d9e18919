"""Learn the coefficients of LSD and LSD+: exact error on an enumerable law, and those for texts.

    python -m dlm_eval.lsd.learned

A killed run continues where it was: each finished measurement is a line in a journal beside the
result file, and a run of learning keeps its state beside it.  `dlm-sampling eval compare --preset
lsd` measures the learned solvers on texts and writes the page.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from tqdm import tqdm

from dlm_eval.journal import Journal
from dlm_eval.lsd.toy import LENGTH, directly, distance, noisy_toy, toy
from dlm_eval.program import check_result, start
from dlm_sampling import AutoDenoiser, learn_sampler
from dlm_sampling.errors import UsageError
from dlm_sampling.samplers import LearnedEuler, LearnedSteps, LearnedTauLeaping, LearnedTweedie
from dlm_sampling.schedules import LINEAR, Exponential, HalfCosine

BASES: dict[str, Any] = {
    "euler, log-linear": LearnedEuler(),
    "euler, half-cosine": LearnedEuler(HalfCosine()),
    "tau-leaping, linear": LearnedTauLeaping(noise_removal="sample"),
}
"""Solvers that are learnt; all end with a sample of what is left."""

EXACT: dict[str, Any] = {
    "euler, log-linear": LearnedTweedie(),
    "euler, half-cosine": LearnedTweedie(HalfCosine()),
    "tau-leaping, linear": LearnedTweedie(LINEAR, 1e-3),
}
"""The same schedule and grid with the exact chance of a reveal in every step."""

UNIFORM: dict[str, Any] = {
    "euler, uniform noise": LearnedEuler(Exponential()),
}
"""Solvers that are learnt on the enumerable law under uniform noise."""

METHODS: dict[str, dict[str, Any]] = {
    "LSD": {},
    "LSD, Adam": {"fit": "gradient"},
    "LSD+": {"times": True},
    "LSD as printed, squared": {"target": "trajectory"},
    "LSD as printed, score-entropy": {"target": "trajectory", "divergence": "score-entropy"},
}
"""What `learn_sampler` is told."""

TOYS, TOY_STEPS = (0, 1), 4
TOY_LEARNING: dict[str, Any] = {
    "steps": TOY_STEPS,
    "teacher_steps": 64,
    "length": LENGTH,
    "rows": 256,
    "rounds": 4,
}
TOY_ADAM: dict[str, Any] = {"teacher_steps": 32, "rows": 32, "rounds": 60, "learning_rate": 0.03}
SOLVER, LONGER, EXACT_STEPS = "phi = 1", "phi = 1, one step more", "exact chance of a reveal"
DIRECT, DIRECT_TIMES = "TV minimised over phi", "TV minimised over phi and times"
TEXT_STEPS = (16, 8, 32)
TEXT_METHODS = ("LSD", "LSD+", "LSD as printed, score-entropy", "LSD as printed, squared")
TEXT_LEARNING: dict[str, Any] = {"teacher_steps": 96, "length": 48, "rows": 4, "rounds": 1}
TEXT_MODEL = "tiny-books"
RESULT = Path(__file__).with_name("learned.json")


@dataclass(frozen=True)
class Cell:
    """One measurement: a method for a solver, on a toy (its seed) or at a number of steps."""

    part: str
    base: str
    method: str
    number: int


def toy_cells() -> Iterator[Cell]:
    """Every method on every toy; the direct search last, since it begins with what others found."""
    for seed, bases in itertools.product(TOYS, (BASES, UNIFORM)):
        for base in bases:
            for method in (SOLVER, LONGER, EXACT_STEPS, *METHODS, DIRECT, DIRECT_TIMES):
                yield Cell("toy", base, method, seed)


def text_cells() -> Iterator[Cell]:
    """All methods at the middle number of steps; elsewhere what it showed to matter."""
    middle, *others = TEXT_STEPS
    exact_already = "euler, log-linear"
    for base in BASES:
        for method in (SOLVER, EXACT_STEPS, *TEXT_METHODS):
            if method != EXACT_STEPS or base != exact_already:
                yield Cell("text", base, method, middle)
    for steps in others:
        for base in BASES:
            if base != exact_already:
                for method in (SOLVER, EXACT_STEPS, "LSD", "LSD+"):
                    yield Cell("text", base, method, steps)
    for steps in others:
        for method in (SOLVER, "LSD", "LSD+"):
            yield Cell("text", exact_already, method, steps)


def equal_steps(base: Any, steps: int) -> LearnedSteps:
    """Coefficients 1 and the solver's own times, written out."""
    points = base.time_at(torch.arange(steps + 1), torch.tensor(steps))
    return LearnedSteps((1.0,) * steps, tuple(float(t) for t in points))


def measure_toy(cell: Cell, found: dict[Cell, dict[str, Any]]) -> dict[str, Any]:
    """Exact TV of a method."""
    steps, uniform = TOY_STEPS, UNIFORM.get(cell.base)
    base = BASES[cell.base] if uniform is None else uniform
    world = toy(cell.number) if uniform is None else noisy_toy(cell.number, base.schedule)
    exact = EXACT.get(cell.base, LearnedTweedie(base.schedule))

    def plain(solver: Any, number: int) -> dict[str, Any]:
        learned = equal_steps(solver, number)
        return asdict(learned) | {"tv": distance(world, replace(solver, learned=learned), number)}

    def direct(times: bool) -> dict[str, Any]:
        # From the solver itself and from what the other methods ended with.
        begins = [equal_steps(base, steps)]
        for method in (*METHODS, *((DIRECT,) if times else ())):
            other = found[replace(cell, method=method)]
            if times or not METHODS[method].get("times", False):
                begins.append(LearnedSteps(tuple(other["phi"]), tuple(other["t_grid"])))
        runs = [directly(world, base, begin, times=times) for begin in begins]
        learned, least = min(runs, key=lambda run: run[1])
        return asdict(learned) | {"tv": least}

    special: dict[str, Callable[[], dict[str, Any]]] = {
        SOLVER: lambda: plain(base, steps),
        LONGER: lambda: plain(base, steps + 1),
        EXACT_STEPS: lambda: plain(exact, steps),
        DIRECT: lambda: direct(False),
        DIRECT_TIMES: lambda: direct(True),
    }
    if cell.method in special:
        return special[cell.method]()
    options = METHODS[cell.method]
    how = TOY_LEARNING | (TOY_ADAM if "fit" in options else {}) | options
    saved = learn_sampler(world, base, progress=False, **how)
    tv = distance(world, saved.build(), steps)
    return {"phi": saved.phi, "t_grid": saved.t_grid, "tv": tv}


def learn_text(cell: Cell, state: Path) -> dict[str, Any]:
    """Return the coefficients of a method for texts."""
    options = TEXT_LEARNING | METHODS[cell.method]
    model = AutoDenoiser.from_pretrained(TEXT_MODEL)
    learned = learn_sampler(
        model, BASES[cell.base], steps=cell.number, name=TEXT_MODEL, state=state, **options
    )
    return {"phi": learned.phi, "t_grid": learned.t_grid, "learnt with": learned.learning}


def learned_solvers() -> Iterator[tuple[str, str, int, Any]]:
    """Yield base, method, steps and solver of everything that is measured on texts."""
    records = {
        Cell(*(record[name] for name in Cell.__dataclass_fields__)): record
        for record in read_result()["text"]["records"]
    }
    for cell in text_cells():
        solver = EXACT[cell.base] if cell.method == EXACT_STEPS else BASES[cell.base]
        if cell.method in METHODS:
            record = records[cell]
            steps = LearnedSteps(tuple(record["phi"]), tuple(record["t_grid"]))
            solver = replace(solver, learned=steps)
        yield cell.base, cell.method, cell.number, solver


def read_result() -> dict[str, Any]:
    """Read the committed result: "toy" with exact errors, "text" with coefficients."""
    return json.loads(RESULT.read_text(encoding="utf-8"))


def missing(cells: Iterator[Cell], found: dict[Cell, dict[str, Any]]) -> Iterator[Cell]:
    """What is not in the journal yet, with a bar."""
    every = list(cells)
    part = every[0].part
    with tqdm(desc=part, total=len(every), unit="cell", mininterval=1.0) as bar:
        for cell in every:
            if cell not in found:
                bar.set_postfix_str(f"{cell.base}: {cell.method}, {cell.number}", refresh=True)
                yield cell
            bar.update()


def read(journal: Journal) -> dict[Cell, dict[str, Any]]:
    """The records of a journal by cell."""
    names = Cell.__dataclass_fields__
    return {Cell(**{name: r[name] for name in names}): r for r in journal.records}


def measure_toys(out: Path) -> dict[str, Any]:
    """The part of the result about the toys."""
    journal = Journal(out.with_suffix(".toy.jsonl"), {"learning": TOY_LEARNING, "adam": TOY_ADAM})
    found = read(journal)
    for cell in missing(toy_cells(), found):
        journal.append({**asdict(cell), **measure_toy(cell, found)})
        found = read(journal)
    return {**journal.settings, "records": journal.records}


def learn_texts(out: Path) -> dict[str, Any]:
    """Return the coefficients for texts."""
    journal = Journal(out.with_suffix(".text.jsonl"), {"learning": TEXT_LEARNING})
    cells = (cell for cell in text_cells() if cell.method in METHODS)
    for cell in missing(cells, read(journal)):
        journal.append({**asdict(cell), **learn_text(cell, out.with_suffix(".state"))})
    return {**journal.settings, "records": journal.records}


def measure_all(out: Path) -> dict[str, Any]:
    """Measure what the journals beside a result file lack, and write it."""
    torch.set_num_threads(1)
    return write_result(out, {"toy": measure_toys(out), "text": learn_texts(out)})


def write_result(out: Path, result: dict[str, Any]) -> dict[str, Any]:
    """Replace the measured parts in the result file, in one piece, one record per line."""
    old = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    parts = {**old, **result}
    lines: list[str] = []
    for name, part in parts.items():
        rows = ",\n".join(f"  {json.dumps(record)}" for record in part["records"])
        head = json.dumps({**part, "records": []}).removesuffix("]}")
        lines.append(f" {json.dumps(name)}: {head}\n{rows}\n ]}}")
    draft = out.with_suffix(".tmp")
    draft.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    os.replace(draft, out)
    return parts


def main(
    parts: Annotated[str, typer.Option(help="toy, text or both.")] = "both",
    out: Annotated[Path, typer.Option(help="Result file; the journals lie beside it.")] = RESULT,
) -> None:
    """Learn, and write the result file."""
    if parts not in ("toy", "text", "both"):
        raise UsageError(f"--parts {parts}: must be toy, text or both.")
    check_result(out)
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    if parts != "text":
        found["toy"] = measure_toys(out)
    if parts != "toy":
        found["text"] = learn_texts(out)
    write_result(out, found)
    typer.echo(f"Wrote {out}")


if __name__ == "__main__":
    start(main)

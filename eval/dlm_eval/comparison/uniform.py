"""Every sampler of uniform noise on the embedded model of uniform noise: quality and NFE.

    python -m dlm_eval.comparison.uniform --books PATH/TO/books --out eval/results/uniform.json

Texts after held-out prompts, scored by an n-gram judge of other books, as in
`dlm_eval.comparison.samplers`.  A killed run continues where it was; eval/UNIFORM.md is written
from the result file.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor

from dlm_eval.comparison.cells import SWEEPS, Budgets, Cell
from dlm_eval.comparison.samplers import environment, identity, measure
from dlm_eval.journal import Journal
from dlm_eval.tasks.worlds import TextWorld, denoiser, fingerprint, text_world
from dlm_sampling import samplers
from dlm_sampling.denoisers import Denoiser

MODEL = "tiny-books-uniform"
STEPS = (8, 16, 32, 64, 128)
TEXTS, NEW_TOKENS = 32, 48
BASELINE, MIDDLE = "ancestral", 32


@dataclass(frozen=True)
class UniformWorld(TextWorld):
    """Texts after a prompt by the model of uniform noise, at temperature 1."""

    name = "uniform"

    def settings(self) -> dict[str, Any]:
        """See the base class."""
        return {**super().settings(), "model": MODEL, "weights": fingerprint(MODEL)}

    def cells(self, names: Sequence[str]) -> list[Cell]:
        """The plain law at every budget; where events set the pace, its sweep."""
        found: list[Cell] = []
        for name in names:
            sweep = SWEEPS.get(name)
            if sweep is None:
                found += [Cell("prompted", name, "plain", steps) for steps in self.budgets.all]
            else:
                found += [
                    Cell("prompted", name, "plain", None, (sweep.option, value))
                    for value in sweep.values["text"]
                ]
        return found

    def canvas(self, task: str) -> tuple[Denoiser, Tensor, Tensor]:
        """Prompts and room for the new tokens, which the loop fills with noise."""
        _, tokens, editable = super().canvas(task)
        return denoiser(MODEL), tokens, editable


def measurable() -> list[str]:
    """Names of the samplers that run on uniform noise."""
    return [name for name, entry in samplers.available().items() if "uniform" in entry.runs_on]


def uniform_world(books: Path, split: Path, samples: int, steps: tuple[int, ...]) -> UniformWorld:
    """The text world of `compare_samplers` with another model."""
    plain = text_world(books, split, samples=samples, new_tokens=NEW_TOKENS, budgets=Budgets(steps))
    return UniformWorld(**{f.name: getattr(plain, f.name) for f in fields(plain)})


def as_row(records: list[dict[str, Any]], baseline: dict[int, dict[str, Any]], columns: int) -> str:
    """One line of the page: a sampler at all its budgets."""
    budgets = [f"{np.mean(r['nats']):.2f} ({r['nfe']:.0f})" for r in records][:columns]
    last, against = records[-1], ""
    middle = next((r for r in records if r["steps"] == MIDDLE and MIDDLE in baseline), None)
    if middle is not None and last["sampler"] != BASELINE:
        gap = np.subtract(middle["nats"], baseline[MIDDLE]["nats"])
        against = f"{gap.mean():+.2f} ± {gap.std(ddof=1) / len(gap) ** 0.5:.2f}"
    diversity = (f"{np.mean(last['entropy']):.2f}", f"{last['distinct-2']:.2f}")
    cells = [last["sampler"], *budgets, *[""] * (columns - len(budgets)), against, *diversity]
    return f"| {' | '.join(cells)} | {last['repeat-4']:.3f} |"


def render(result: dict[str, Any]) -> str:
    """The page, from the result file."""
    by_name: dict[str, list[dict[str, Any]]] = {}
    for record in result["records"]:
        by_name.setdefault(record["sampler"], []).append(record)
    baseline = {r["steps"]: r for r in by_name.get(BASELINE, []) if "nats" in r}
    good = {n: [r for r in rs if "nats" in r] for n, rs in by_name.items()}
    columns = len(result["settings"]["budgets"]["all"])
    rows = [as_row(records, baseline, columns) for records in good.values() if records]
    refused = [f"- {n}: {rs[0]['refused']}" for n, rs in by_name.items() if "refused" in rs[0]]
    real, settings = result["reference"], result["settings"]
    steps = " | ".join(f"{s} steps" for s in settings["budgets"]["all"])
    against = f"against {BASELINE}, {MIDDLE} steps"
    head = f"| sampler | {steps} | {against} | entropy | distinct-2 | repeat-4 |"
    lines = [
        "# Samplers of uniform noise",
        "",
        f"Written by `{result['command']}` from `eval/results/uniform.json`; do not edit.",
        "",
        f"`{settings['model']}` at temperature 1: {settings['samples']} texts of "
        f"{settings['new tokens']} tokens after {settings['prompt tokens']} tokens of books that",
        "neither model nor judge has seen, the same seeds in every row. Numbers are the nats per",
        "token of a 3-gram judge of other books (lower is more like books; texts that repeat "
        "themselves",
        "are low too), with the forward passes per text in brackets. The books themselves: "
        f"{np.mean(real['nats']):.2f} nats,",
        f"entropy {np.mean(real['entropy']):.2f}, distinct-2 {real['distinct-2']:.2f}. Entropy "
        "(nats inside a text), distinct bigrams and repeated",
        "4-grams are those of the last budget. `against` is the mean difference text by text with "
        "its",
        "standard error. Samplers of single events have no steps: their columns are 1, 2, 4 events",
        "per pass, and so on. `diffusion-gemma` is made for networks that predict a posterior;",
        "this one does not.",
        "",
        head,
        "| --- " * head.count("|", 1) + "|",
        *rows,
    ]
    if refused:
        lines += ["", "Refused, since this model lacks what they need:", "", *refused]
    return "\n".join(lines) + "\n"


def main(
    books: Annotated[Path, typer.Option(help="Folder of plain-text books.")],
    out: Annotated[Path, typer.Option(help="Result file; the journal lies beside it.")] = Path(
        "eval/results/uniform.json"
    ),
    split: Annotated[
        Path, typer.Option(help="Python file with TRAIN_BOOKS and HELD_OUT_BOOKS; read, not run.")
    ] = Path("examples/train_tiny.py"),
    page: Annotated[Path, typer.Option(help="Page to write from the result file.")] = Path(
        "eval/UNIFORM.md"
    ),
    samples: Annotated[int, typer.Option(min=2, help="Texts per cell.")] = TEXTS,
    steps: Annotated[list[int] | None, typer.Option(help="A budget; repeat the option.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="A sampler; repeat the option.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes, one thread each.")] = 2,
) -> None:
    """Measure every sampler of uniform noise; write the result file and the page."""
    torch.set_num_threads(1)
    try:
        world = uniform_world(books, split, samples, tuple(steps or STEPS))
        names = [name for name in measurable() if not only or name in only]
        given = {"settings": world.settings(), "environment": environment(workers)}
        journal = Journal(out.with_suffix(".uniform.jsonl"), given)
        measure(world, world.cells(names), journal, workers)
    except (ValueError, OSError) as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(1) from error
    order = [identity(cell) for cell in world.cells(measurable())]
    known = {identity(_cell(record)): record for record in journal.records}
    budgets = "".join(f" --steps {number}" for number in world.budgets.all)
    program = "python -m dlm_eval.comparison.uniform --books FOLDER"
    result = {
        "command": f"{program} --samples {samples}{budgets}",
        **journal.settings,
        "reference": world.reference(),
        "records": [known[key] for key in order if key in known],
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    page.write_text(render(result), encoding="utf-8")
    typer.echo(f"Wrote {out} and {page}")


def _cell(record: dict[str, Any]) -> Cell:
    option = record["option"]
    given = {**{k: record[k] for k in asdict(Cell("", "", "", None))}, "option": None}
    return Cell(**{**given, "option": None if option is None else (option[0], option[1])})


if __name__ == "__main__":
    typer.run(main)

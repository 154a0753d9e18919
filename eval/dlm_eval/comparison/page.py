"""The page that shows a result file of `compare_samplers`: all its numbers come from the file.

    python -m dlm_eval.comparison.page

writes eval/SAMPLERS.md from eval/results/samplers.json.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Annotated

import typer

from dlm_eval.comparison.reading import (
    OUTCOMES,
    Found,
    Record,
    Verdict,
    findings,
    mean_and_error,
    measured,
    series,
    variance,
)

SHORT = """
Comparisons with a baseline at the same NFE, counted over all samplers and budgets. A method helps
where it is *better*; *better, less varied* (text) is lower perplexity bought with lower entropy,
which is no gain by itself. The sections below say who, where, and who nowhere."""
SHORT_COLUMNS = "task|law|baseline|better|better, less varied|same|worse|better most often"
TEXT_COLUMNS = "sampler,law,steps,NFE,perplexity,± nats,entropy,distinct-2,repeat-4,wall s,CPU s"
BUDGETS = (4, 8, 16, 32, 64, 128)
VARIED = 0.95
INTRO = """# Samplers compared

Every sampler of `samplers.available()` on the two embedded models, with its own options except
where a table names one. This page is written by `python -m dlm_eval.comparison.page` from
[results/samplers.json](results/samplers.json); no number in it is typed by hand.

These are a tiny text model and a toy. They show how the rules behave, not how a large model
behaves with them.

**Laws.** *plain*: temperature 1, no filter, the model's own law. *greedy*: temperature 0.
*nucleus*: temperature 1 and top-p 0.9 without the crossing token. Every sampler runs under the
plain law and under its own default law. Samplers are only compared within one law, because the law
moves quality more than the rule does.

**NFE** is measured: forward passes per row, the mean over rows. A sampler that sets its own pace
ignores the planned steps; its threshold (or similar) is swept instead. Everything is written in
one block, also by samplers that their authors run block by block.

**Against a baseline**: at the record's own NFE, with the baseline linear in log NFE between its
measured points, and beyond two standard errors. With so many comparisons about one in twenty of
those that are really equal is called better or worse by chance.
"""
TEXT = """## Text

{samples} prompts of {prompt} tokens from held-out books ({books}), {new} new tokens each, end of
text never drawn. Perplexity is that of a {order}-gram judge per new token, given the prompt; the
judge is fitted on {judge} tokens of {count} books that the text model never saw. `±` is a standard
error over prompts, of the mean nats. Low perplexity by itself is no quality: loops have it. So
entropy (nats, of the token frequencies inside one text), distinct-2 and the rate of repeated
4-grams stand beside it. The books' own continuations have perplexity {ppl}, entropy {entropy},
distinct-2 {distinct}, repeat-4 {repeat}. PC-Sampler uses token frequencies of the training books.
Wall seconds are for all {samples} texts as one batch.
"""
SUDOKU = """## Sudoku

{samples} 4x4 grids, filled from nothing or from five random clues of a valid grid, by the embedded
model and by the exact oracle (whose laws are right, so that its errors are the sampler's alone).
Valid: every row, column and box holds each digit once; `±` is a standard error. Greedy laws are run
from clues only, since without any all grids would be the same. Wall seconds are for all {samples}
grids as one batch.
"""


def render(result: Record) -> str:
    """The page as Markdown."""
    worlds = result["worlds"]
    parts: list[str] = [INTRO, *in_short(worlds)]
    if "text" in worlds:
        parts += text_section(worlds["text"])
    if "sudoku" in worlds:
        parts += sudoku_section(worlds["sudoku"])
    parts.append(reproduce(worlds))
    return "\n".join(part.strip("\n") + "\n" for part in parts)


def text_section(part: Record) -> list[str]:
    """Reading, comparison and all numbers of the text world."""
    settings, reference = part["settings"], part["reference"]
    records, marked = measured(part), part["experimental"]
    head = TEXT.format(
        samples=settings["samples"],
        prompt=settings["prompt tokens"],
        new=settings["new tokens"],
        books=", ".join(settings["prompts from"]),
        order=settings["judge order"],
        judge=f"{settings['judge tokens']:,}",
        count=len(settings["judge books"]),
        ppl=f"{perplexity(reference):.0f}",
        entropy=f"{entropy(reference):.2f}",
        distinct=f"{reference['distinct-2']:.2f}",
        repeat=f"{reference['repeat-4']:.2f}",
    )
    found = findings("text", part)
    best = table(
        ("NFE about", "lowest perplexity, plain law", "lowest among texts as varied as the books'"),
        best_texts(records, entropy(reference)),
    )
    return [
        head,
        shortfall(part),
        "### Reading",
        f'Best at each NFE. "As varied": entropy at least {VARIED:.0%} of the books\', any law.',
        best,
        *(line for task in found.values() for line in reading(task)),
        "### Text against the baselines, at the same NFE",
        "The numbers are NFE. *Less varied*: the entropy fell beyond two standard errors as well.",
        against(found, marked),
        details(
            "All text measurements",
            table(TEXT_COLUMNS.split(","), [text_row(record, marked) for record in records]),
        ),
    ]


def sudoku_section(part: Record) -> list[str]:
    """Reading, comparison and all numbers of the sudoku world."""
    samples, marked = part["settings"]["samples"], part["experimental"]
    records = measured(part)
    tasks = list(dict.fromkeys(record["task"] for record in records))
    by_task = {task: [r for r in records if r["task"] == task] for task in tasks}
    found = findings("sudoku", part)
    blocks: list[str] = [SUDOKU.format(samples=samples), shortfall(part), "### Best grids"]
    blocks.append(
        table(
            ("NFE about", *(f"{task}, plain law" for task in tasks)),
            best_grids(by_task, samples),
        )
    )
    blocks.append("What helps the model; the oracle is in the table below.")
    for task in tasks:
        if task.startswith("model"):
            blocks += [f"**{task}**", *reading(found[task])]
    blocks += ["### Sudoku against the baselines, at the same NFE", "The numbers are NFE."]
    blocks.append(against(found, marked))
    rows = sudoku_rows(records, tasks, samples, marked)
    columns = [f"{task}: {what}" for task in tasks for what in ("valid %", "NFE", "wall s")]
    blocks.append(
        details("All sudoku measurements", table(("sampler", "law", "steps", *columns), rows))
    )
    return blocks


def best_texts(records: Sequence[Record], reference: float) -> list[list[str]]:
    """Per budget: the lowest perplexity under the plain law, and among varied texts."""
    rows: list[list[str]] = []
    for budget in BUDGETS:
        near = [record for record in records if bucket(record["nfe"]) == budget]
        plain = [record for record in near if record["law"] == "plain"]
        varied = [record for record in near if entropy(record) >= VARIED * reference]
        if near:
            rows.append([str(budget), *(_best_text(some) for some in (plain, varied))])
    return rows


def _best_text(records: Sequence[Record]) -> str:
    if not records:
        return "none"
    best = min(records, key=perplexity)
    return (
        f"{label(best)} ({best['law']}): {perplexity(best):.0f}, entropy {entropy(best):.2f}, "
        f"NFE {best['nfe']:.1f}"
    )


def best_grids(by_task: dict[str, list[Record]], samples: int) -> list[list[str]]:
    """Per budget and task: the largest valid fraction under the plain law."""
    rows: list[list[str]] = []
    for budget in BUDGETS[:4]:
        cells: list[str] = []
        for records in by_task.values():
            near = [r for r in records if bucket(r["nfe"]) == budget and r["law"] == "plain"]
            best = max(near, key=lambda record: record["valid"], default=None)
            cells.append("none" if best is None else _best_grid(best, samples))
        rows.append([str(budget), *cells])
    return rows


def _best_grid(best: Record, samples: int) -> str:
    return f"{label(best)}: {valid(best, samples)}, NFE {best['nfe']:.1f}"


def in_short(worlds: Record) -> list[str]:
    """How often anything beats its baseline, and what does so most often."""
    rows: list[list[str]] = []
    for world, part in worlds.items():
        for task, found in findings(world, part).items():
            for law, base in _pairs(found):
                mine = {name: v for (name, *rest), v in found.items() if rest == [law, base]}
                outcomes = [one.outcome for v in mine.values() for one in v]
                counts = [str(outcomes.count(outcome)) for outcome in OUTCOMES]
                rows.append([f"{world}, {task}", law, f"`{base}`", *counts, _most(mine)])
    return ["## In short", SHORT, table(SHORT_COLUMNS.split("|"), rows)]


def _pairs(found: Found) -> list[tuple[str, str]]:
    return list(dict.fromkeys((law, base) for _, law, base in found))


def _most(mine: dict[str, list[Verdict]]) -> str:
    """The three that are better at most places."""
    counts = {name: sum(one.outcome == "better" for one in v) for name, v in mine.items()}
    best = sorted((name for name in mine if counts[name]), key=lambda name: -counts[name])[:3]
    return ", ".join(f"`{name}` ({counts[name]} of {len(mine[name])})" for name in best) or "nobody"


def reading(found: Found) -> list[str]:
    """Per law and baseline: who helps, who only looks better, and who does not."""
    lines: list[str] = []
    for law, base in _pairs(found):
        mine = {name: v for (name, its, b), v in found.items() if (its, b) == (law, base)}
        better = _where(mine, "better")
        looks = _where(mine, "better, less varied")
        never = [n for n, v in mine.items() if not any("better" in one.outcome for one in v)]
        lines.append(f"- *{law}* law, against `{base}`: better at NFE: {better or 'nobody'}.")
        if looks:
            lines.append(f"  Lower perplexity but less varied: {looks}.")
        if never:
            lines.append(f"  Nowhere better: {', '.join(f'`{name}`' for name in never)}.")
    return ["\n".join(lines)]


def _where(mine: dict[str, list[Verdict]], outcome: str) -> str:
    """The samplers that have an outcome, and at which NFE."""
    found = {name: places(v, outcome) for name, v in mine.items()}
    return "; ".join(f"`{name}` ({where})" for name, where in found.items() if where)


def places(found: Sequence[Verdict], outcome: str) -> str:
    """The NFE at which an outcome was met."""
    return ", ".join(dict.fromkeys(f"{v.nfe:.0f}" for v in found if v.outcome == outcome))


def against(found: dict[str, Found], marked: Sequence[str]) -> str:
    """One row per sampler, law and baseline; one column per task."""
    keys = list(dict.fromkeys(key for task in found.values() for key in task))
    rows = [
        [name_of(name, marked), law, base]
        + [summary(task.get((name, law, base), [])) for task in found.values()]
        for name, law, base in keys
    ]
    return table(("sampler", "law", "baseline", *found), rows)


def summary(found: Sequence[Verdict]) -> str:
    """Outcomes with their NFE, such as "better 8, 16; same 4"."""
    named = [(outcome, places(found, outcome)) for outcome in OUTCOMES]
    return "; ".join(f"{outcome} {where}" for outcome, where in named if where) or "-"


def text_row(record: Record, marked: Sequence[str]) -> list[str]:
    """One line of the text table."""
    return [
        name_of(record["sampler"], marked),
        record["law"],
        budget_of(record),
        f"{record['nfe']:.1f}",
        f"{perplexity(record):.1f}",
        f"{mean_and_error(record['nats'])[1]:.2f}",
        f"{entropy(record):.2f}",
        f"{record['distinct-2']:.2f}",
        f"{record['repeat-4']:.2f}",
        f"{record['wall']:.1f}",
        f"{record['cpu']:.1f}",
    ]


def sudoku_rows(
    records: Sequence[Record], tasks: Sequence[str], samples: int, marked: Sequence[str]
) -> list[list[str]]:
    """One line per sampler, law and budget; three columns per task."""
    rows: list[list[str]] = []
    for (name, law), group in series(records):
        budgets = list(dict.fromkeys(budget_of(record) for record in group))
        cells = {(budget_of(record), record["task"]): record for record in group}
        for budget in budgets:
            line = [name_of(name, marked), law, budget]
            for task in tasks:
                record = cells.get((budget, task))
                line += ["", "", ""] if record is None else _sudoku_cell(record, samples)
            rows.append(line)
    return rows


def _sudoku_cell(record: Record, samples: int) -> list[str]:
    return [valid(record, samples), f"{record['nfe']:.1f}", f"{record['wall']:.2f}"]


def valid(record: Record, samples: int) -> str:
    """Valid grids in percent with the standard error."""
    error = 100 * math.sqrt(variance(record["valid"], samples))
    return f"{100 * record['valid'] / samples:.1f} ± {error:.1f}"


def perplexity(record: Record) -> float:
    """Judge's perplexity per token."""
    return math.exp(mean_and_error(record["nats"])[0])


def entropy(record: Record) -> float:
    """Mean over rows."""
    return mean_and_error(record["entropy"])[0]


def bucket(nfe: float) -> int:
    """The budget that is nearest in ratio."""
    return min(BUDGETS, key=lambda budget: abs(math.log(nfe / budget)))


def budget_of(record: Record) -> str:
    """Planned steps, or the option that takes their place."""
    if record["option"] is None:
        return str(record["steps"])
    return "{} {:g}".format(*record["option"])


def label(record: Record) -> str:
    """Name and, if swept, option."""
    option = "" if record["option"] is None else f", {budget_of(record)}"
    return f"`{record['sampler']}`{option}"


def name_of(name: str, marked: Sequence[str]) -> str:
    """Name, marked if experimental."""
    return f"`{name}` (experimental)" if name in marked else f"`{name}`"


def shortfall(part: Record) -> str:
    """What was not measured, and why."""
    lines: list[str] = []
    if len(part["records"]) < part["planned"]:
        lines.append(f"Measured so far: {len(part['records'])} of {part['planned']}.")
    refused = [record for record in part["records"] if "refused" in record]
    for name, group in groupby(refused, key=lambda record: record["sampler"]):
        lines.append(f"`{name}` does not run here: {next(group)['refused']}")
    return "\n\n".join(lines)


def reproduce(worlds: Record) -> str:
    """Device, versions, cost, and the commands."""
    lines = ["## Reproduce", "```", *(part["command"] for part in worlds.values()), "```", ""]
    for name, part in worlds.items():
        facts = ", ".join(f"{key} {value}" for key, value in part["environment"].items())
        settings = part["settings"]
        weights = f"`{settings['model']}` (SHA-256 {settings['weights']}...), seed"
        lines.append(f"- {name}: {weights} {settings['seed']}. {facts}. {cost(part)}")
    return "\n".join(lines)


def cost(part: Record) -> str:
    """Seconds of the whole part; a wall time above the processor's shows a busy machine."""
    records = measured(part)
    wall, cpu = (sum(record[key] for record in records) for key in ("wall", "cpu"))
    return f"All records together: {wall:.0f} s of wall time, {cpu:.0f} s of processor time."


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def details(title: str, body: str) -> str:
    """A section that opens on a click."""
    return f"<details><summary>{title}</summary>\n\n{body}\n\n</details>"


def main(
    result: Annotated[Path, typer.Option(help="Result file of compare_samplers.")] = Path(
        "eval/results/samplers.json"
    ),
    page: Annotated[Path, typer.Option(help="Page to write.")] = Path("eval/SAMPLERS.md"),
) -> None:
    """Write the page from the result file."""
    page.write_text(render(json.loads(result.read_text(encoding="utf-8"))), encoding="utf-8")
    typer.echo(f"Wrote {page}")


if __name__ == "__main__":
    typer.run(main)

"""Write the page of `control`: all its numbers come from the result file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

Record = dict[str, Any]

HEAD = """# Control

What steering reaches and what it costs. One command makes [the result file]({file}), the picture
and this page; no number here is typed by hand:

```bash
{command}
```

![Distance to the product law, and quality against passes]({figure})

## Plain guidance, the product law, and particles

Two random laws P and Q over three tokens at three positions; the target is P^g Q^(1 - g) / Z with
g = {gamma}. Guidance multiplies the conditionals of each position and normalises them, which is not
the product of the laws: its distance is exact, by enumeration. Particles (`TiltedTarget`,
`ProductDenoiser`) weigh each token by the normaliser that guidance drops. Distances are total
variation of the mean weighted law of {draws} particles in all; as many exact draws of the target
are at the distance of the last column, so that nothing below it can be seen.

"""
SUDOKU = """
## Valid 4x4 sudoku by reward alone

The embedded model `sudoku4x4` from an empty grid, {rows} grids each, random order. The reward is
minus the number of rows, columns and boxes that lack a digit, scale {scale:g}; no rule of sudoku
is told to the sampler. With fewer steps than cells a step writes several cells at once, each from
its own law, and grids break.

Passes are better spent on steps first: with {passes:.0f} passes per grid a plain run of
{steps} steps is valid in {plain} of the cases, and {few} steps with particles in {particles}, with
candidates in {candidates}, as the best of n in {best}. Particles draw from the tilted law, where
the best of n only looks for the largest reward.

"""
CLUES = """
## Sudoku with clues that were seen with errors

{puzzles} grids, of each {clues} cells that were looked at, with the right digit at each with chance
{right:g}. The prior is the same model, the posterior is exact by enumeration of all grids that are
valid. Distances are total variation between the law of a cell, mean over the cells, by {particles}
grids of each puzzle in all. Clues that are believed contradict each other. The proposal alone,
K = 1 (`Classifier` of the likelihood), minds a clue when its own cell is written, which is too
late for the cells before it; particles (`TwistedTarget`) are weighed by what that missed.

"""
LETTERS = """
## Texts with more letters

The embedded model `tiny-books`, {rows} texts of {tokens} tokens each; the reward is the number of
letters, scale {scale:g}. Bits per token are those of a 3-gram model of two books that no model
here was trained on: what the letters cost in likelihood.

"""


def render(result: dict[str, Any], links: Mapping[str, str]) -> str:
    """Return the page.

    Args:
        result: what `run.measure` returned.
        links: places of the result file and the picture.
    """
    part, grids, texts = result["products"], result["sudoku"], result["letters"]
    worlds = part["worlds"]
    counts = [record["K"] for record in worlds[0]["particles"]]
    head = HEAD.format(
        **links, command=result["command"], gamma=f"{part['gamma']:g}", draws=part["draws"]
    )
    titles = ["world", "guidance", *(f"K = {k}" for k in counts), "exact draws"]
    rows = [
        [str(w["seed"]), _n(w["guidance"]), *(_n(r["tv"]) for r in w["particles"]), _n(w["draws"])]
        for w in worlds
    ]
    titles_z = ["world", "Z", *(f"K = {k}" for k in counts)]
    rows_z = [
        [
            str(w["seed"]),
            _n(w["Z"]),
            *(f"{r['Z']:.3f} ± {r['Z_error']:.3f}" for r in w["particles"]),
        ]
        for w in worlds
    ]
    estimates = "\nThe estimates of Z, mean and standard error:\n\n" + table(titles_z, rows_z)
    columns = ["method", "steps", "n, K or M", "passes per text", "valid", "different grids"]
    sudoku = [[*_common(r), _n(r["valid"]), str(r["different"])] for r in grids["records"]]
    seen = [
        ["believed" if r["count"] == 0 else "particles" if r["count"] > 1 else "proposal",
         str(r["count"]), f"{r['passes']:.0f}", _n(r["valid"]), _n(r["distance"])]
        for r in result["clues"]["records"]
    ]  # fmt: skip
    names = ["method", "steps", "n, K or M", "passes per text", "letters", "bits per token"]
    letters = [
        [*_common(r), f"{r['letters']:.1f}", f"{r['bits_per_token']:.2f}"] for r in texts["records"]
    ]
    return "".join(
        (
            head,
            table(titles, rows),
            estimates,
            SUDOKU.format(**grids, **_at_equal_passes(grids["records"])),
            table(columns, sudoku),
            CLUES.format(**result["clues"]),
            table(["method", "K", "passes per grid", "valid", "distance"], seen),
            LETTERS.format(**texts),
            table(names, letters),
            "\nThe first text of each:\n\n",
            *(f"- {_name(r)}: `{' '.join(r['example'].split())}`\n" for r in texts["records"]),
        )
    )


def _at_equal_passes(records: list[Record]) -> dict[str, Any]:
    """Return what the plain run of the most steps reaches, and what others do with its passes."""
    plain = max((r for r in records if r["method"] == "plain"), key=lambda r: r["steps"])
    few = {r["method"]: r for r in records if math.isclose(r["passes"], plain["passes"])}
    return {
        "passes": plain["passes"], "steps": plain["steps"], "plain": _n(plain["valid"]),
        "few": few["particles"]["steps"], "particles": _n(few["particles"]["valid"]),
        "candidates": _n(few["candidates"]["valid"]), "best": _n(few["best of n"]["valid"]),
    }  # fmt: skip


def _n(value: float) -> str:
    return f"{value:.3f}"


def _name(record: Record) -> str:
    count = "" if record["count"] == 1 else f", {record['count']}"
    return f"{record['method']}, {record['steps']} steps{count}"


def _common(record: Record) -> list[str]:
    return [
        record["method"], str(record["steps"]), str(record["count"]), f"{record['passes']:.1f}"
    ]  # fmt: skip


def table(titles: list[str], rows: list[list[str]]) -> str:
    """Return a table of Markdown."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)

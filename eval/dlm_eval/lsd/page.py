"""Write the page of the preset "lsd": exact errors of the toys, coefficients, what they mean."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

Record = dict[str, Any]
SOLVER = "phi = 1"
OUTCOMES = ("better", "less varied", "same", "worse")

HEAD = """# Learned sampler distillation

One command writes this page and its figures of texts, and any end only interrupts it:

```bash
{command}
```

The coefficients and the exact errors are those of `eval/dlm_eval/lsd/learned.json`, which the same
command writes with `--preset lsd-laws --out eval/dlm_eval/lsd`.

LSD multiplies the rates of step k of a solver by a coefficient phi_k; LSD+ also moves the times
of the steps ([arXiv:2509.19962](https://arxiv.org/abs/2509.19962), `dlm-sampling learn`). All
solvers here end with a sample of what is still noise.

- **LSD**, **LSD+**: this library's target. From the student's own canvas the teacher takes many
  short steps over the time of one long step; phi is the closed form `<a, b> / <a, a>` of what
  both do there. **Adam** is the same by gradient.
- **as printed**: two runs apart are compared at equal times, with the squared distance or with
  the score entropy (the paper does not name its distance).
- **exact chance of a reveal**: no learning; the same schedule and times with the integrated rate
  (`tweedie`).
"""

TOY = """## Exact error on an enumerable law

Three tokens at three places, an exact network and {steps} steps, so that the law of the output is
known: total variation distance to the data law, mean of {count} random laws. The noise removal
after the last step is one more forward pass if anything is left for it. A solver that leaves
nothing wastes it, hence the row with one step more. The last two rows are not learnt from a
teacher: they minimise the distance itself, and show what coefficients and times could reach.
"""

MEANING = """## What it means

- On masks, and with a network that predicts the same at all times, a coefficient decides only
  how many tokens a step opens; it cannot change which. Where the solver's chance of a reveal is
  exact already (Euler on the log-linear schedule, Tweedie on any), the teacher has nothing to
  teach, and phi = 1 up to noise.
- Where the rate is frozen over a step in which it changes (Euler on the half-cosine,
  tau-leaping), the coefficients move the chance of a reveal towards the exact one, and the error
  towards that of `tweedie`, which has it without learning. (Where the frozen rate is 0, as at the
  start of the half-cosine, no coefficient helps.) That error may be larger than before: a solver
  that is slow leaves tokens to the noise removal, and so makes use of one more pass.
- The printed form compares two different texts. Under the squared distance its minimiser is the
  chance that the other run has a mask there too, times the likeness of two contexts: it falls
  towards 0 along the run and leaves most of a text to the last pass, which ruins it. Under the
  score entropy it stays near 1.
- What is left to gain on masks is mostly not in the teacher's rates: the coefficients that
  minimise the error itself hold tokens back for the noise removal. On the log-linear schedule
  that is as good as one step more of the solver, and no better.
- Under uniform noise the times matter, and the coefficients little: the best times found crowd
  near 0, where rates blow up. LSD+ does not find those. It ends its grid before 0 instead, and the
  noise removal does the rest.
"""


def render(result: dict[str, Any], command: str, texts: str) -> str:
    """Return the page.

    Args:
        result: what `dlm_eval.lsd.learned` wrote.
        command: repeats the comparison of texts.
        texts: section about them.
    """
    head = HEAD.replace("{command}", command)
    parts = [head, toy_part(result["toy"]), texts, coefficients(result["text"]["records"])]
    return "\n".join([*parts, MEANING])


def learning_of(result: dict[str, Any]) -> str:
    """Return on how much the coefficients were learnt."""
    learning = result["text"]["learning"]
    return (
        f"Learnt on {learning['rows'] * learning['rounds']} texts of {learning['length']} tokens, "
        f"teacher {learning['teacher_steps']} steps."
    )


def distance(records: Sequence[Record], base: str, method: str) -> float:
    """Mean TV over the toys."""
    return mean([r["tv"] for r in records if (r["base"], r["method"]) == (base, method)])


def toy_part(part: dict[str, Any]) -> str:
    """The table of distances, mean over the toys."""
    records: list[Record] = part["records"]
    bases, methods = distinct(records, "base"), distinct(records, "method")
    count = len(distinct(records, "number"))
    rows: list[list[str]] = []
    for method in methods:
        cells: list[str] = []
        for base in bases:
            cells.append(f"{distance(records, base, method):.4f}")
        rows.append([method, *cells])
    head = TOY.format(steps=part["learning"]["steps"], count=count)
    return f"{head}\n{table(['', *bases], rows)}"


def coefficients(records: Sequence[Record]) -> str:
    """The learned numbers themselves."""
    lines = ["### Coefficients, first step to last", ""]
    for record in sorted(records, key=lambda r: r["number"]):
        if "phi" in record:
            numbers = " ".join(f"{value:.2f}" for value in record["phi"])
            lines.append(
                f"- {record['base']}, {record['number']} steps, {record['method']}: {numbers}"
            )
    return "\n".join(lines) + "\n"


def distinct(records: Sequence[Record], name: str) -> list[Any]:
    """Values of a field in the order in which they first occur."""
    return list(dict.fromkeys(record[name] for record in records))


def mean(values: Sequence[float]) -> float:
    """Of numbers."""
    return sum(values) / len(values)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "".join(f"| {' | '.join(row)} |\n" for row in lines_of(head, rows))


def lines_of(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[Sequence[str]]:
    """Heading, rule and rows."""
    yield head
    yield ["---"] * len(head)
    yield from rows

"""The page eval/LSD.md from the result file: tables, and sentences that the figures decide."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

Record = dict[str, Any]
SOLVER = "phi = 1"
EXACT = "exact chance of a reveal"
PRINTED = "as printed"

HEAD = """# Learned sampler distillation

Written by `python -m dlm_eval.lsd.learned --books FOLDER` from `eval/results/lsd.json`: do not
edit.

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

TEXT = """## Judge's perplexity of texts

`{model}`: {new} tokens after {prompt} tokens of books that neither model nor judge has seen;
{samples} texts, the same seeds in every row. The judge is a {order}-gram model of {books} other
books. Its perplexity is lower where texts repeat themselves, so entropy (nats inside a text),
distinct bigrams and repeated 4-grams stand beside it. "against the solver" is the mean
difference in nats per token, text by text, with its standard error. Learnt on {rows} texts of
{length} tokens, teacher {teacher} steps. The books themselves: perplexity {ppl:.0f}, entropy
{entropy:.2f}.
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


def render(result: dict[str, Any]) -> str:
    """The page; parts that were not measured are left out."""
    parts = [HEAD, "".join(f"{line}\n" for line in in_short(result))]
    if "toy" in result:
        parts.append(toy_part(result["toy"]))
    if "text" in result:
        parts.append(text_part(result["text"]))
    return "\n".join([*parts, MEANING])


def in_short(result: dict[str, Any]) -> Iterator[str]:
    """The answer in two sentences, from the figures."""
    yield "## In short"
    yield ""
    if "toy" in result:
        records: list[Record] = result["toy"]["records"]
        changes = [
            f"{base} {distance(records, base, SOLVER):.3f} to {distance(records, base, 'LSD'):.3f}"
            f" (LSD+ {distance(records, base, 'LSD+'):.3f})"
            for base in distinct(records, "base")
        ]
        yield f"- Exact error, the solver's to LSD's: {'; '.join(changes)}."
    if "text" in result:
        records = result["text"]["records"]
        learned = [r for r in records if r["method"] in ("LSD", "LSD+")]
        found = [verdict(change) for r in learned if (change := difference(r, records)) is not None]
        counts = {name: found.count(name) for name in VERDICTS}
        yield (
            f"- Judge's perplexity of texts, LSD and LSD+ at 8, 16 and 32 steps: of {len(found)} "
            f"comparisons with the solver itself, {counts['better']} are better and "
            f"{counts['worse']} worse by more than two standard errors."
        )


VERDICTS = ("better", "worse", "no difference")


def verdict(change: tuple[float, float]) -> str:
    """What a mean difference and its standard error say at two standard errors."""
    low, high = change[0] - 2 * change[1], change[0] + 2 * change[1]
    return "better" if high < 0 else "worse" if low > 0 else "no difference"


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


def text_part(part: dict[str, Any]) -> str:
    """The tables of perplexities, one for each number of steps, and what they say."""
    world, learning, reference = part["world"], part["learning"], part["reference"]
    head = TEXT.format(
        model=world["model"],
        new=world["new tokens"],
        prompt=world["prompt tokens"],
        samples=world["samples"],
        order=world["judge order"],
        books=len(world["judge books"]),
        rows=learning["rows"] * learning["rounds"],
        length=learning["length"],
        teacher=learning["teacher_steps"],
        ppl=math.exp(mean(reference["nats"])),
        entropy=mean(reference["entropy"]),
    )
    records: list[Record] = part["records"]
    tables: list[str] = []
    for steps in sorted(distinct(records, "number")):
        here = [r for r in records if r["number"] == steps]
        order = {base: i for i, base in enumerate(distinct(records, "base"))}
        here.sort(key=lambda r: order[r["base"]])
        rows = [text_row(record, here) for record in here]
        tables.append(f"### {steps} steps\n\n{table(COLUMNS, rows)}")
    return "\n".join([head, *tables, reading(records), coefficients(records)])


COLUMNS = [
    "solver", "method", "perplexity", "against the solver", "NFE", "entropy", "distinct-2",
    "repeat-4",
]  # fmt: skip


def text_row(record: Record, records: Sequence[Record]) -> list[str]:
    """One line of a table."""
    change = difference(record, records)
    return [
        record["base"],
        record["method"],
        f"{math.exp(mean(record['nats'])):.0f}",
        "" if change is None else f"{change[0]:+.3f} ± {change[1]:.3f}",
        f"{record['nfe']:.1f}",
        f"{mean(record['entropy']):.3f}",
        f"{record['distinct-2']:.3f}",
        f"{record['repeat-4']:.4f}",
    ]


def difference(record: Record, records: Sequence[Record]) -> tuple[float, float] | None:
    """Nats against the solver at as many steps, mean and standard error; None for the solver."""
    same = [r for r in records if (r["base"], r["number"]) == (record["base"], record["number"])]
    solver = next((r for r in same if r["method"] == SOLVER), None)
    if solver is None or record["method"] == SOLVER:
        return None
    gaps = [a - b for a, b in zip(record["nats"], solver["nats"], strict=True)]
    centre = mean(gaps)
    spread = math.sqrt(sum((gap - centre) ** 2 for gap in gaps) / (len(gaps) - 1))
    return centre, spread / math.sqrt(len(gaps))


def reading(records: Sequence[Record]) -> str:
    """Where each method differs by more than two standard errors."""
    lines = ["### Beyond two standard errors", ""]
    for method in distinct(records, "method"):
        if method == SOLVER:
            continue
        verdicts: dict[str, list[str]] = {name: [] for name in VERDICTS}
        for record in sorted(records, key=lambda r: r["number"]):
            change = difference(record, records) if record["method"] == method else None
            if change is not None:
                verdicts[verdict(change)].append(f"{record['base']} at {record['number']}")
        found = [f"{name}: {'; '.join(where)}" for name, where in verdicts.items() if where]
        lines.append(f"- {method}: {'. '.join(text[0].upper() + text[1:] for text in found)}.")
    count = sum(difference(record, records) is not None for record in records)
    lines += ["", f"Of {count} comparisons about {count / 20:.0f} would stand out by chance alone."]
    return "\n".join(lines) + "\n"


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

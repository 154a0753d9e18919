"""The page that shows a result file of `orders`: all its numbers come from the file.

python -m dlm_eval.convergence.orders writes it after measuring.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Record = dict[str, Any]

LINKS = {"orders.json": "results/orders.json", "orders.png": "results/orders.png"}
"""Of the committed page."""

PAGE = """# Orders of convergence

How fast the law that a solver samples approaches the data law p0, measured exactly: the worlds are
so small that the law of the whole chain is a vector, and is propagated without drawing anything.
Predictions are exact too, so all error is the solver's. No number on this page is typed by hand;
one command makes [the result file]({file}), the figure and the page:

```bash
{command}
```

![Error against NFE in six small worlds, and the 15-state experiment]({figure})

**NFE** counts forward passes: the theta methods (theta = {theta}) spend two per interval, so they
get half the intervals. On masks every solver spends one more to draw what is still masked at
t = {masks_end}. Slopes are least squares of log TV (or KL) against log NFE over the intervals named
with each table. KL behaves like TV squared where both are small, so first order is slope 2 in KL.

## What it shows

The trapezoidal rule is of second order where its rates stay positive: slope {mild_token} in (a),
{mild_pair} in (c), {mild_masks} in (e). Where the data law is uneven, rates are clamped, and the
slope falls towards 1: over the last doubling it is {token} in (b), {pair} in (d), {masks} in (f).
At the largest NFE it still beats every solver that is not one of its own variants (or exact),
except in (b), where Euler is a little better ({euler_token} against {trap_token} at NFE {last}). At
NFE 16 the ancestral step beats it in (c) and (d).

Under uniform noise three variants lose the second order, in (a) over the last doubling: the
indicator 1[R_t > 0] with rates labelled by destination ({indicator}), labels by displacement y - x
({displacement}), and rejection of multiple jumps ({rejection}). theta-RK-2 is of first order and
costs twice as much as tau-leaping, so it is worse than it at every NFE measured.

For one token the ancestral (Tweedie) step and the integrated jump are exact, so (a), (b) and (g)
rank rules on a problem that needs none of them; several tokens are in (c) to (f).

A prediction of the wrong kind (a posterior read as a leave-one-out law, or the other way round)
stalls in all five pairings tried: at NFE {last} in (d) TV is {wrong}, while the right pairings are
below {right}. On masks the two kinds agree.
"""
COLUMNS = "solver|forwards|{nfe}|slope TV|last|slope KL"
PAPER = """## The 15-state experiment

After Ren et al. 2025, [arXiv:2502.00234](https://arxiv.org/abs/2502.00234): one token of 15 states,
Q = E/15 - I, p0 ~ Dir(1), time from {horizon} to 0 on a uniform grid, exact score. The authors'
code was not at hand, so that the setting is not checked against it, and their p0 is not known: this
one is numpy's `default_rng(0).gamma(1, size=15)`, normalised. Shapes compare, numbers do not.
KL(p0 || law) against the number of intervals N:

{exact}

From N = {low} to {high} the KL of the trapezoidal rule falls with slope {kl}; with Dir(30) it falls
with slope {kl_mild}. A slope of 2 in KL alone is no sign of second order.

By sampling, {samples} rows from the library's own random numbers (seed {seed}), with a {level}%
percentile bootstrap. {inside} of {total} intervals hold the exact KL; the estimate is biased
upwards by about 14 / (2 n) = {bias}. p is that of a chi-square test of the counts against the exact
law of the same chain.

{sampled}
"""
IDENTITIES = """## Solvers that are one and the same

Largest difference between their final laws, over all grids:

{table}

Versions: {versions}.
"""


def render(result: dict[str, Any], links: Mapping[str, str] = LINKS) -> str:
    """Return the whole page.

    Args:
        result: what `dlm_eval.convergence.orders` measured.
        links: to the result file and the figure, by their names.
    """
    parts = {part["name"]: part for part in result["experiments"]}
    sections = [_overview(result, parts, links)]
    for letter, part in zip("abcdef", parts.values(), strict=True):
        sections.append(_section(letter, part))
    sections += [_paper(result, parts), _identities(result)]
    return "\n".join(sections)


def _records(part: dict[str, Any]) -> dict[str, Record]:
    return {record["method"]: record for record in part["records"]}


def _overview(result: dict[str, Any], parts: dict[str, Any], links: Mapping[str, str]) -> str:
    by = {name: _records(part) for name, part in parts.items()}

    def slope(name: str) -> str:
        return f"{by[name]['theta-trapezoidal']['slope_tv']:.2f}"

    def last(name: str, variant: str = "") -> str:
        return f"{by[name]['theta-trapezoidal' + variant]['last_slope_tv']:.2f}"

    pair = by["pair"].values()
    return PAGE.format(
        command=result["command"],
        file=links["orders.json"],
        figure=links["orders.png"],
        theta=result["settings"]["theta"],
        masks_end=result["settings"]["masks end"],
        mild_token=slope("token-mild"),
        mild_pair=slope("pair-mild"),
        mild_masks=slope("masks-mild"),
        token=last("token"),
        pair=last("pair"),
        masks=last("masks"),
        indicator=last("token-mild", ", indicator"),
        displacement=last("token-mild", ", displacement"),
        rejection=last("token-mild", ", rejection"),
        euler_token=_number(by["token"]["euler"]["tv"][-1]),
        trap_token=_number(by["token"]["theta-trapezoidal"]["tv"][-1]),
        last=by["token"]["euler"]["nfe"][-1],
        wrong=f"{min(r['tv'][-1] for r in pair if r['wrong']):.2f} or more",
        right=_number(_above(max(r["tv"][-1] for r in pair if not r["wrong"]))),
    )


def _section(letter: str, part: dict[str, Any]) -> str:
    shown = _shown(part["records"])
    rows = [[_name(r), str(r["forwards"]), *(_at(r, n) for n in shown), *_slopes(r)]
            for r in part["records"]]  # fmt: skip
    header = COLUMNS.format(nfe="|".join(f"TV at NFE {n}" for n in shown)).split("|")
    low, high = part["window"]
    trapezoidal = _records(part)["theta-trapezoidal"]
    gained = ", ".join(_number(value) for value in trapezoidal["clamped"])
    return (
        f"## ({letter}) {part['title'][0].upper()}{part['title'][1:]}\n\n"
        f"{_table(header, rows)}\n\n"
        f"Slopes over {low} to {high} intervals, then over the last doubling. Jumps per sample\n"
        f"that the clamp adds to the trapezoidal rule, at "
        f"{_listed(trapezoidal['intervals'])} intervals:\n{gained}.\n"
    )


def _paper(result: dict[str, Any], parts: dict[str, Any]) -> str:
    token, sampled = _records(parts["token"]), result["sampled"]
    names = ("tau-leaping", "theta-rk-2", "theta-trapezoidal", "euler")
    grids = token["theta-trapezoidal"]["intervals"]
    exact = [[str(n), *(_number(token[m]["kl"][i]) for m in names)] for i, n in enumerate(grids)]
    rows = [
        [
            r["method"],
            str(r["intervals"]),
            _number(r["kl"]),
            f"{_number(r['low'])} to {_number(r['high'])}",
            _number(r["exact_kl"]),
            f"{r['chi_square_p']:.2f}",
        ]
        for r in sampled["records"]
    ]
    low, high = parts["token"]["window"]
    return PAPER.format(
        horizon=f"{result['settings']['horizon']:g}",
        exact=_table(["N", *names], exact),
        kl=f"{token['theta-trapezoidal']['slope_kl']:.2f}",
        kl_mild=f"{_records(parts['token-mild'])['theta-trapezoidal']['slope_kl']:.2f}",
        low=low,
        high=high,
        samples=f"{sampled['samples']:,}",
        seed=sampled["seed"],
        level=f"{100 * sampled['level']:g}",
        inside=sum(r["low"] <= r["exact_kl"] <= r["high"] for r in sampled["records"]),
        total=len(rows),
        bias=_number(14 / (2 * sampled["samples"])),
        sampled=_table(["solver", "N", "KL", "interval", "exact KL", "p"], rows),
    )


def _identities(result: dict[str, Any]) -> str:
    rows = [
        [name, " = ".join(entry["methods"]), f"{entry['largest difference']:.0e}"]
        for name, entry in result["identities"].items()
    ]
    versions = ", ".join(f"{name} {number}" for name, number in result["environment"].items())
    return IDENTITIES.format(
        table=_table(["world", "solvers", "difference"], rows), versions=versions
    )


def _shown(records: Iterable[Record]) -> list[int]:
    """Every other NFE that all solvers have, the largest included."""
    common = set.intersection(*(set(record["nfe"]) for record in records))
    return sorted(common)[::-2][::-1]


def _at(record: Record, nfe: int) -> str:
    return _number(record["tv"][record["nfe"].index(nfe)])


def _slopes(record: Record) -> list[str]:
    if "slope_tv" not in record:
        return ["exact", "", ""]
    return [f"{record[key]:.2f}" for key in ("slope_tv", "last_slope_tv", "slope_kl")]


def _name(record: Record) -> str:
    return f"*wrong:* {record['method']}" if record["wrong"] else record["method"]


def _number(value: float) -> str:
    """Three significant digits."""
    return f"{value:.3g}"


def _above(value: float) -> float:
    """The smallest number of one significant digit that is not below."""
    unit = 10.0 ** int(f"{value:e}".split("e")[1])
    return unit * -(-value // unit)


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

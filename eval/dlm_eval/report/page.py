"""Render an evaluation as one HTML file that needs no network and no other file.

Every text of a model passes through Jinja2's autoescape.  The page also forbids itself, by a
content security policy, every request and every script but its own.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

import jinja2

from dlm_eval.report.plots import Plot
from dlm_eval.report.results import Json, Metric, Results

SHOWN_TEXTS = 240
"""Most texts on one page; samples.jsonl has all."""
LONG_PROMPT, END_OF_PROMPT = 800, 400
"""Characters from which a prompt is folded, and those at its end that are shown all the same."""
SMALL = 1e-4
"""Below it a figure is written with a power of ten."""
TEXT_KEYS = ("text", "prompt", "reference", "group", "row")


@dataclass(frozen=True)
class Column:
    """Hold the head of a column of figures: metric, unit, and which direction is better."""

    name: str
    unit: str
    better: str


@dataclass(frozen=True)
class Row:
    """Hold the figures of one group, in the order of the columns; None where it has none."""

    group: str
    figures: list[Metric | None]


@dataclass(frozen=True)
class TextRow:
    """Hold the texts that stand side by side, by column; None where a column has none."""

    label: str
    prompt: str
    reference: str
    samples: list[Mapping[str, Json] | None]


def render(
    results: Results,
    samples: Sequence[Mapping[str, Json]],
    *,
    versions: Mapping[str, str],
    plots: Sequence[Plot] = (),
    texts: int | None = None,
) -> str:
    """Return the page.

    Args:
        results: the figures.
        samples: see `write_folder`.
        versions: versions of the packages.
        plots: stand between the figures and the texts.
        texts: number of all texts, of which the samples are some; None where they are all.
    """
    folder = files("dlm_eval.report") / "templates"
    script = (folder / "report.js").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["figure"] = figure
    template = environment.from_string((folder / "report.html.j2").read_text(encoding="utf-8"))
    columns, rows = table(results.metrics)
    groups, text_rows = side_by_side(samples)
    total = sum("text" in sample for sample in samples) if texts is None else texts
    return template.render(
        title=_title(results),
        results=results,
        versions=versions,
        plots=plots,
        columns=columns,
        rows=rows,
        single=any(metric.n == 1 for metric in results.metrics),
        groups=groups,
        texts=text_rows,
        hidden=total - sum(sample is not None for row in text_rows for sample in row.samples),
        facts=facts,
        long=LONG_PROMPT,
        end=END_OF_PROMPT,
        style=(folder / "report.css").read_text(encoding="utf-8"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
    )


def table(metrics: Sequence[Metric]) -> tuple[list[Column], list[Row]]:
    """Return the figures as one row for each group and one column for each metric and basis.

    The unigram entropy stands directly behind the generative perplexity.
    """
    heads: dict[tuple[str, str], Column] = {}
    bases = Counter(name for name, _ in {(metric.name, metric.basis) for metric in metrics})
    for metric in metrics:
        shown = metric.basis if bases[metric.name] > 1 else ""
        unit = ", ".join(filter(None, (metric.unit, shown)))
        heads.setdefault(
            (metric.name, metric.basis), Column(metric.name, unit, metric.better or "")
        )
    keys = [key for key in heads if not key[0].startswith("unigram entropy")]
    entropies = [key for key in heads if key not in keys]
    places = [i for i, (name, _) in enumerate(keys) if name.startswith("generative perplexity")]
    after = places[-1] + 1 if places else len(keys)
    keys[after:after] = entropies
    groups: dict[str, dict[tuple[str, str], Metric]] = {}
    for metric in metrics:
        groups.setdefault(metric.group, {})[metric.name, metric.basis] = metric
    rows = [Row(group, [own.get(key) for key in keys]) for group, own in groups.items()]
    return [heads[key] for key in keys], rows


def side_by_side(
    samples: Sequence[Mapping[str, Json]],
) -> tuple[list[str], list[TextRow]]:
    """Return the names of the columns and the rows of texts, at most `SHOWN_TEXTS` texts.

    Samples of one group alone fill rows of one text.  So do groups that were asked different things
    in rows of one name: the rows then have the names of their groups too.
    """
    columns: dict[str, dict[str, Mapping[str, Json]]] = {}
    for sample in samples:
        if "text" in sample:
            column = columns.setdefault(str(sample.get("group", "")), {})
            column[str(sample.get("row", len(column)))] = sample
    labels = list(dict.fromkeys(label for column in columns.values() for label in column))
    if any(_differ([c[label] for c in columns.values() if label in c]) for label in labels):
        everyone = {
            f"{group} {label}": column[label]
            for label in labels
            for group, column in columns.items()
            if label in column
        }
        columns, labels = {"": everyone}, list(everyone)
    most = max(1, SHOWN_TEXTS // max(1, len(columns)))
    rows = [_text_row(label, [c.get(label) for c in columns.values()]) for label in labels[:most]]
    return list(columns), rows


def _differ(samples: Sequence[Mapping[str, Json]]) -> bool:
    """Return whether samples answer different prompts, or have different references."""
    given = ({s[key] for s in samples if s.get(key)} for key in ("prompt", "reference"))
    return any(len(texts) > 1 for texts in given)


def facts(sample: Mapping[str, Json]) -> list[tuple[str, str]]:
    """Return the figures and words of a sample that stand below its text."""
    return [
        (key.replace("_", " "), _word(value))
        for key, value in sample.items()
        if key not in TEXT_KEYS and isinstance(value, str | int | float)
    ]


def _word(value: str | int | float) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return figure(value) if isinstance(value, float) else str(value)


def figure(value: float, error: float | None = None) -> str:
    """Write a figure with two digits of its standard error, or with four digits.

    Figures near 0 have a power of ten, those of an error as many digits as it needs.
    """
    if not math.isfinite(value):
        return {math.inf: "∞", -math.inf: "-∞"}.get(value, "not a number")
    if value == int(value) and not error:
        return f"{int(value):,}".replace(",", "\u202f")
    if not error and abs(value) < SMALL:
        return f"{value:.3g}"
    scale = error if error and math.isfinite(error) else abs(value) / 100
    digits = min(12, max(0, 1 - math.floor(math.log10(scale))))
    text = f"{value:,.{digits}f}".replace(",", "\u202f")
    return text if not error else f"{text} ± {error:.{digits}f}"


def _text_row(label: str, samples: list[Mapping[str, Json] | None]) -> TextRow:
    present = [sample for sample in samples if sample is not None]
    prompt = next((str(s["prompt"]) for s in present if s.get("prompt")), "")
    reference = next((str(s["reference"]) for s in present if s.get("reference")), "")
    return TextRow(label, prompt, reference, samples)


def _title(results: Results) -> str:
    last = results.command.rpartition("\n")[2]  # behind the commands of the folders that it shows
    words = [word for word in last.split()[:4] if not word.startswith("-")]
    kind = words[2] if words[:2] == ["dlm-sampling", "eval"] and len(words) > 2 else "evaluation"
    model = results.subject.get("model")
    return f"{kind}: {model}" if isinstance(model, str) else kind

"""Put the results of several folders side by side, and refuse those that are not comparable.

Two figures are comparable if the fingerprints of their protocols and their sample counts agree;
those of another basis stand in columns of their own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from dlm_eval.report.folder import Stored, read_folder, read_samples
from dlm_eval.report.results import Json, Metric, Results


def compare_folders(
    folders: Sequence[str | os.PathLike[str]], *, mixed: bool = False
) -> tuple[Results, tuple[str, ...]]:
    """Join the results of folders into one, with a group for each folder.

    Args:
        folders: two folders or more, each written by `write_folder`.
        mixed: join results of different protocols or sample counts as well; the result then
            carries every difference as a warning, which stands above its table.

    Returns:
        The joined result, for `write_folder`, and the differences, one sentence each.

    Raises:
        ValueError: fewer than two folders, a folder without a result, or, without `mixed`, results
            that are not comparable; the message names the first difference.
    """
    for i, folder in enumerate(folders):
        if any(Path(folder).resolve() == Path(other).resolve() for other in folders[:i]):
            raise ValueError(f"{folder}: is given twice.")
    stored = [read_folder(folder) for folder in folders]
    if len(folders) < 2:
        raise ValueError(f"folders: {len(folders)} given: name two or more.")
    names = _names([entry.path for entry in stored])
    found = tuple(_all_differences(stored, names))
    if found and not mixed:
        raise ValueError(
            f"{found[0]} Figures of different protocols or sample counts do not belong into one "
            "table; pass mixed=True for a table that says so."
        )
    metrics = [
        replace(metric, group=_group(name, metric.group))
        for name, entry in zip(names, stored, strict=True)
        for metric in entry.results.metrics
    ]
    protocol: dict[str, Json] = dict(stored[0].results.protocol)
    if found:
        protocol = {name: dict(e.results.protocol) for name, e in zip(names, stored, strict=True)}
    own = [f"{n}: {w}" for n, e in zip(names, stored, strict=True) for w in e.results.warnings]
    joined = Results(
        command="\n".join(entry.results.command for entry in stored),
        subject={name: dict(e.results.subject) for name, e in zip(names, stored, strict=True)},
        protocol=protocol,
        metrics=tuple(metrics),
        warnings=(*(f"Not comparable: {sentence}" for sentence in found), *own),
    )
    return joined, found


def samples_of_folders(folders: Sequence[str | os.PathLike[str]]) -> Iterator[dict[str, Json]]:
    """Yield the samples of folders with the groups that `compare_folders` gives them.

    Raises:
        ValueError: a folder has no samples, or a line is none.
    """
    paths = [Path(folder) for folder in folders]
    for name, path in zip(_names(paths), paths, strict=True):
        for sample in read_samples(path):
            yield {**sample, "group": _group(name, str(sample.get("group", "")))}


def differences(first: Results, second: Results) -> Iterator[str]:
    """Say why figures of two results are not comparable, one sentence each; none if they are."""
    before, now = dict(_flat(first.protocol)), dict(_flat(second.protocol))
    for name in dict.fromkeys((*before, *now)):
        if before.get(name) != now.get(name):
            yield f"{name} is {_short(before.get(name))} and {_short(now.get(name))}"
    counts = _counts(first.metrics)
    names: dict[tuple[str, str], list[str]] = {}
    for name, number in _counts(second.metrics).items():
        if name in counts and counts[name] != number:
            names.setdefault((counts[name], number), []).append(name)
    for (one, other), group in names.items():
        verb = "has" if len(group) == 1 else "have"
        yield f"{', '.join(group)} {verb} n = {one} and n = {other}"


def _all_differences(stored: Sequence[Stored], names: Sequence[str]) -> Iterator[str]:
    for name, entry in zip(names[1:], stored[1:], strict=True):
        for difference in differences(stored[0].results, entry.results):
            yield f"{names[0]} against {name}: {difference}."


def _counts(metrics: Sequence[Metric]) -> dict[str, str]:
    """Sample counts by metric and basis, of all its groups."""
    found: dict[str, set[int]] = {}
    for metric in metrics:
        name = f"{metric.name} ({metric.basis})" if metric.basis else metric.name
        found.setdefault(name, set()).add(metric.n)
    return {name: " and ".join(map(str, sorted(numbers))) for name, numbers in found.items()}


def _flat(values: Mapping[str, Json], prefix: str = "") -> Iterator[tuple[str, Json]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}: ")
        else:
            yield f"{prefix}{name}", value


def _short(value: Json) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def _group(name: str, group: str) -> str:
    """Return the name of a group of a folder in the table of several."""
    return ", ".join(filter(None, (name, group)))


def _names(paths: Sequence[Path]) -> list[str]:
    """Return the folders' own names, or whole paths where two are the same."""
    own = [path.resolve().name for path in paths]
    return own if len(set(own)) == len(own) else [str(path) for path in paths]

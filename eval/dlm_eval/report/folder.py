"""Write and read the folder of an evaluation: results.json, samples.jsonl, report.html.

results.json holds the fields of `Results`, the fingerprint of the protocol as "protocol_hash", and
"versions".  It is written last: a folder that has it is complete.
"""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import dlm_sampling
from dlm_eval.report.page import render
from dlm_eval.report.plots import Plot
from dlm_eval.report.results import Json, Metric, Results

RESULTS, SAMPLES, REPORT = "results.json", "samples.jsonl", "report.html"
PACKAGES = ("numpy", "tokenizers", "torch", "transformers")


@dataclass(frozen=True, kw_only=True)
class Stored:
    """Hold what `read_folder` finds.

    Fields:
        path: the folder.
        results: the figures with their protocol.
        versions: versions of Python and of the packages that produced them.
    """

    path: Path
    results: Results
    versions: Mapping[str, str]


def versions() -> dict[str, str]:
    """Return the versions of Python, of this library and of the packages that figures depend on."""
    found = {"python": platform.python_version(), "dlm_sampling": dlm_sampling.__version__}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def write_folder(
    folder: str | os.PathLike[str],
    results: Results,
    samples: Iterable[Mapping[str, Json]],
    *,
    plots: Sequence[Plot] = (),
    shown: Sequence[Mapping[str, Json]] | None = None,
) -> Path:
    """Write results.json, samples.jsonl and report.html, each in one piece; return the folder.

    Files of those names are replaced; other files of the folder stay.

    Args:
        folder: made where it does not exist.
        results: the figures with their protocol.
        samples: one mapping for each sample.  The report reads these keys, all optional: "text",
            "prompt", "reference" (texts), "group" (column, as `Metric.group`), "row" (samples of
            one row stand side by side; default the count within the group).  Every other key with
            a number or a word stands below its text.
        plots: stand in the report between the figures and the texts.
        shown: what the report shows in place of the samples.

    Raises:
        ValueError: a generative perplexity stands without the unigram entropy of the same texts, or
            a figure of one sample has a standard error.
    """
    check_entropy(results.metrics)
    check_errors(results.metrics)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rows = [dict(sample) for sample in samples]
    found = versions()
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    page = render(results, rows if shown is None else shown, versions=found, plots=plots,
                  texts=sum("text" in row for row in rows))  # fmt: skip
    _replace(folder / SAMPLES, "".join(lines))
    _replace(folder / REPORT, page)
    _replace(folder / RESULTS, json.dumps(_as_json(results, found), indent=1, ensure_ascii=False))
    return folder


def read_folder(folder: str | os.PathLike[str]) -> Stored:
    """Read the results.json of a folder.

    Raises:
        ValueError: there is none, it is no result, or its fingerprint is not that of its protocol.
    """
    path = Path(folder)
    file = path / RESULTS
    if not file.is_file():
        inner = ", ".join(sorted(str(found.parent) for found in path.glob(f"*/{RESULTS}")))
        hint = f"in it are {inner}." if inner else "pass the folder that an evaluation wrote."
        raise ValueError(f"{path}: holds no {RESULTS}; {hint}")
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        results = Results(
            command=data["command"],
            subject=data["subject"],
            protocol=data["protocol"],
            metrics=tuple(map(_metric, data["metrics"])),
            warnings=tuple(data["warnings"]),
        )
        stored = Stored(path=path, results=results, versions=data["versions"])
        claimed = data["protocol_hash"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file}: is no result of an evaluation ({error!r}).") from error
    if claimed != results.protocol_hash:
        raise ValueError(
            f"{file}: protocol_hash is {claimed}, and its protocol has {results.protocol_hash}: "
            "the file was changed by hand. Run its command again."
        )
    return stored


def read_samples(folder: str | os.PathLike[str]) -> list[dict[str, Json]]:
    """Read the samples.jsonl of a folder.

    Raises:
        ValueError: there is none, or a line is no sample.
    """
    file = Path(folder) / SAMPLES
    if not file.is_file():
        raise ValueError(f"{folder}: holds no {SAMPLES}; run the command of its {RESULTS} again.")
    found: list[dict[str, Json]] = []
    try:
        for line in file.read_bytes().splitlines():
            sample = json.loads(line)
            found.append({**sample})
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file}, line {len(found) + 1}: is no sample ({error!r}).") from error
    return found


def check_entropy(metrics: Sequence[Metric]) -> None:
    """Refuse a generative perplexity without the unigram entropy of the same group.

    A model that repeats itself has low perplexity; only the entropy shows it.

    Raises:
        ValueError: names the group that lacks the entropy.
    """
    varied = {m.group for m in metrics if m.name.startswith("unigram entropy")}
    for metric in metrics:
        if metric.name.startswith("generative perplexity") and metric.group not in varied:
            raise ValueError(
                f"metrics: {metric.name!r} of group {metric.group!r} stands without the metric "
                "'unigram entropy' of that group; texts that repeat themselves have low perplexity."
            )


def check_errors(metrics: Sequence[Metric]) -> None:
    """Refuse a standard error of fewer than two samples.

    Raises:
        ValueError: names the metric.
    """
    for metric in metrics:
        if metric.error is not None and metric.n < 2:
            raise ValueError(
                f"metrics: {metric.name!r} has error={metric.error!r} and n={metric.n}: a standard "
                "error needs two samples or more; say in its note what varies."
            )


def _as_json(results: Results, found: Mapping[str, str]) -> dict[str, Any]:
    data = asdict(results)
    data["metrics"] = [
        {key: _number(value) for key, value in metric.items()} for metric in data["metrics"]
    ]
    return {**data, "protocol_hash": results.protocol_hash, "versions": dict(found)}


def _number(value: Any) -> Any:
    """JSON has no infinity: it becomes the word that `float` reads."""
    finite = not isinstance(value, float) or math.isfinite(value)
    return value if finite else str(value)


def _metric(data: dict[str, Any]) -> Metric:
    error = data["error"]
    numbers = {
        "value": float(data["value"]),
        "error": None if error is None else float(error),
    }
    return Metric(**{**data, **numbers})


def _replace(file: Path, text: str) -> None:
    """Write a file in one piece; half a surrogate pair, which UTF-8 cannot hold, becomes "?"."""
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    with draft.open("wb") as out:
        out.write(text.encode("utf-8", "replace"))
        out.flush()
        os.fsync(out.fileno())
    os.replace(draft, file)

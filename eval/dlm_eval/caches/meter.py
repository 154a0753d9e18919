"""Measure what a cache costs in exactness: the laws of its passes, and the tokens at the end.

Everything is drawn with the same random numbers, so that what differs is due to the cache alone,
and to rounding: the exact run is repeated one text at a time, and what differs there is the floor.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from dlm_eval.journal import Journal
from dlm_eval.report.intervals import mean_and_error
from dlm_eval.report.results import Metric
from dlm_sampling import Denoiser
from dlm_sampling.caches import AnyPolicy, percentile
from dlm_sampling.jobs import GenerateOptions, generate_parts, prepare

EXACT, ALONE = "none", "none, one text at a time"
LISTS = ("kl", "tv", "top1", "drawn", "entropy", "replaced")


@dataclass(frozen=True)
class Asked:
    """Hold what every setting writes.

    Fields:
        prompts: one per text, "" for none.
        options: of the runs, but for seeds and caches.
        first_seed: text i draws from seed first_seed + i.
        audit: share of passes that are audited, or "refresh".
        batch: texts that run together.
    """

    prompts: Sequence[str]
    options: GenerateOptions
    first_seed: int
    audit: float | str
    batch: int


@dataclass
class Found:
    """Hold what one setting wrote, and what its audits found.

    Fields:
        tokens: ids of every text, as long as was asked for.
        nfe: forward passes of every text.
        work: columns shown to them, in whole canvases.
        laws: per audited position, by the name of the field of `CacheReport`.
        audits: passes that were audited.
        nbytes: most memory of keys and values.
        floor: largest KL of a law and itself in a batch of another shape.
    """

    tokens: list[list[int]] = field(default_factory=list[list[int]])
    nfe: list[float] = field(default_factory=list[float])
    work: list[float] = field(default_factory=list[float])
    laws: dict[str, list[float]] = field(
        default_factory=lambda: {name: list[float]() for name in LISTS}
    )
    audits: int = 0
    nbytes: int = 0
    floor: float = 0.0

    def add(self, record: Mapping[str, Any]) -> None:
        """Add the texts of one batch."""
        self.tokens += record["tokens"]
        self.nfe += record["nfe"]
        self.work += record["work"]
        for name, values in self.laws.items():
            values += record["laws"][name]
        self.audits += record["audits"]
        self.nbytes = max(self.nbytes, record["nbytes"])
        self.floor = max(self.floor, record["floor"])


def measure(
    denoiser: Denoiser, asked: Asked, policies: Mapping[str, AnyPolicy], journal: Journal
) -> Iterator[int]:
    """Write the texts of every setting that the journal lacks; yield how many are done."""
    settings: dict[str, AnyPolicy | str] = {EXACT: "none", ALONE: "none", **policies}
    done = {(record["setting"], record["first"]) for record in journal.records}
    written = sum(len(record["nfe"]) for record in journal.records)
    yield written
    for name, policy in settings.items():
        size = 1 if name == ALONE else asked.batch
        for first in range(0, len(asked.prompts), size):
            if (name, first) in done:
                continue
            record = _batch(denoiser, asked, policy, first, size)
            journal.append({"setting": name, "first": first, **record})
            written += len(record["nfe"])
            yield written


def _batch(
    denoiser: Denoiser, asked: Asked, policy: AnyPolicy | str, first: int, size: int
) -> dict[str, Any]:
    """Write some texts, and return a record of the journal."""
    prompts = list(asked.prompts[first : first + size])
    seeds = [asked.first_seed + first + i for i in range(len(prompts))]
    audit = None if policy == "none" else asked.audit
    options = replace(asked.options, seed=seeds, cache=policy, cache_audit=audit, eos="keep")
    (out,) = generate_parts(prepare(denoiser, prompts, options), len(prompts))
    report = out.cache
    empty = torch.zeros(0)
    laws = {name: empty if report is None else vars(report)[name] for name in LISTS}
    return {
        "tokens": out.token_ids,
        "nfe": out.nfe.tolist(),
        "work": out.work.tolist(),
        "laws": {name: value.tolist() for name, value in laws.items()},
        "audits": 0 if report is None else report.audits,
        "nbytes": 0 if report is None else report.nbytes,
        "floor": 0.0 if report is None else report.floor,
    }


def collected(records: Sequence[Mapping[str, Any]]) -> dict[str, Found]:
    """Return what every setting found, in the order of its texts."""
    found: dict[str, Found] = {}
    for record in sorted(records, key=lambda record: int(record["first"])):
        found.setdefault(str(record["setting"]), Found()).add(record)
    return found


def figures(found: Mapping[str, Found]) -> list[Metric]:
    """Return the figures of every setting; the floor comes first."""
    exact, metrics = found[EXACT], list[Metric]()
    for name in (ALONE, EXACT, *(one for one in found if one not in (ALONE, EXACT))):
        one, texts = found[name], len(exact.tokens)
        if name != EXACT:
            metrics += _against(one, exact, name)
        for label, values in (("NFE", one.nfe), ("work", one.work)):
            mean, error = mean_and_error(values) if texts > 1 else (values[0], None)
            unit = "passes" if label == "NFE" else "canvases"
            metrics.append(
                Metric(
                    name=label, value=mean, unit=unit, n=texts, error=error, better="smaller",
                    group=name,
                )
            )  # fmt: skip
    return metrics


def _against(one: Found, exact: Found, group: str) -> list[Metric]:
    """Return how far the texts and the laws of a setting are from the exact ones."""
    differ = [
        sum(a != b for a, b in zip(mine, theirs, strict=True)) / len(theirs)
        for mine, theirs in zip(one.tokens, exact.tokens, strict=True)
    ]
    n = len(differ)
    mean, error = mean_and_error(differ) if n > 1 else (differ[0], None)
    equal = sum(value == 0.0 for value in differ) / n
    metrics = [
        Metric(
            name="tokens that differ", value=100 * mean, unit="%", n=n,
            error=None if error is None else 100 * error, better="smaller", group=group,
        ),
        Metric(name="equal texts", value=100 * equal, unit="%", n=n, better="larger", group=group),
    ]  # fmt: skip
    if not one.audits:
        return metrics
    laws = {name: torch.tensor(values, dtype=torch.float64) for name, values in one.laws.items()}
    replaced = laws.pop("replaced") == 1.0
    drawn = {name: values[~replaced] for name, values in laws.items()}
    if len(kl := drawn["kl"]):
        note = f"rounding alone gives up to {one.floor:.1e}"
        metrics += [
            Metric(
                name=label, value=float(value), unit=unit, n=len(kl), better="smaller", note=note,
                group=group,
            )
            for label, value, unit, note in (
                ("KL, mean", kl.mean(), "nats", note),
                ("KL, 99th percentile", percentile(kl, 99), "nats", ""),
                ("KL, largest", kl.max(), "nats", ""),
                ("total variation", drawn["tv"].mean(), "", ""),
                ("first tokens that differ", 100 * drawn["top1"].mean(), "%", ""),
                ("drawn tokens that differ", 100 * drawn["drawn"].mean(), "%", "per position"),
                ("entropy, difference", drawn["entropy"].mean(), "nats", ""),
            )
        ]  # fmt: skip
    if len(stale := laws["kl"][replaced]):
        metrics.append(
            Metric(
                name="KL before a refresh", value=float(stale.mean()), unit="nats", n=len(stale),
                better="smaller", note="of passes that the refresh replaces", group=group,
            )
        )  # fmt: skip
    metrics.append(
        Metric(name="keys and values", value=one.nbytes / 2**20, unit="MiB", n=n, group=group)
    )
    return metrics

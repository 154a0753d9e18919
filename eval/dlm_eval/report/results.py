"""Define what an evaluation found: figures, and everything that has to be equal to compare them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Json: TypeAlias = "str | int | float | bool | list[Json] | dict[str, Json] | None"


def fingerprint(protocol: Mapping[str, Json]) -> str:
    """Return the first 12 hexadecimal digits of the SHA-256 of a protocol in canonical JSON.

    Two figures may stand in one table only if their fingerprints and their sample counts agree.
    """
    canonical = json.dumps(protocol, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """Hold one figure of an evaluation.

    Args:
        name: name of the metric, such as "generative perplexity".
        value: the figure.
        unit: its unit, "" for a pure number.
        n: number of samples it is computed from.
        error: standard error in the same unit, None where none is known.
        better: whether smaller or larger figures are better, None where neither is.
        note: what a reader must know beside the figure, such as the spread over seeds.
        group: the part of the subject that the figure belongs to, such as "llada, 16 steps"; ""
            where the subject has one part.  A report has one table row for each group.
        basis: what the figure counts and another result may count otherwise under one protocol,
            such as tokens of a tokenizer; figures of another basis have a column of their own.
    """

    name: str
    value: float
    unit: str
    n: int
    error: float | None = None
    better: Literal["smaller", "larger"] | None = None
    note: str = ""
    group: str = ""
    basis: str = ""


@dataclass(frozen=True, kw_only=True)
class Results:
    """Hold the result of one evaluation.

    Args:
        command: the command line that repeats it.
        subject: what was measured: model and revision, sampler and its fields, seeds, NFE.
        protocol: everything else that changes a figure: judge and its revision, reference texts,
            length limit, reduction, number of seeds; its fingerprint decides what is comparable.
        metrics: the figures.
        warnings: sentences that stand above the figures.
    """

    command: str
    subject: Mapping[str, Json]
    protocol: Mapping[str, Json]
    metrics: tuple[Metric, ...]
    warnings: tuple[str, ...] = field(default=())

    @property
    def protocol_hash(self) -> str:
        """Return the fingerprint of the protocol."""
        return fingerprint(self.protocol)

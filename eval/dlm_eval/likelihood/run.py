"""Bound the likelihood of windows, batch by batch, with a journal from which a killed run goes on.

Figures are ratios of sums over windows, with the standard error of a ratio,

    R = sum x / sum y,   se^2 = n / (n - 1) sum (x_i - R y_i)^2 / (sum y)^2

with x_i the nats of window i and y_i its tokens or characters: of texts and of masks together.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from dlm_eval.comparison.journal import Journal
from dlm_eval.likelihood.protocols import DRAWN, Protocol
from dlm_eval.likelihood.windows import Window
from dlm_eval.report import Metric
from dlm_sampling import Denoiser, elbo, uniform_elbo
from dlm_sampling.ops import row_seeds


@dataclass(frozen=True)
class Scored:
    """Hold the estimate of one window: nats (at least -log p in expectation) and forward passes."""

    nats: float
    nfe: int


def nats_of(
    denoiser: Denoiser, tokens: Tensor, editable: Tensor, protocol: Protocol, seeds: Sequence[int]
) -> list[Scored]:
    """Bound -log p(tokens at `editable` | the others) of rows of one length."""
    if denoiser.process.name == "uniform":
        found = uniform_elbo(
            denoiser, tokens, editable=editable, n=protocol.masks, steps=protocol.steps, seed=seeds
        )
    else:
        drawn = protocol.scheme in DRAWN
        found = elbo(
            denoiser,
            tokens,
            editable=editable,
            scheme=protocol.scheme,
            n=protocol.masks if drawn else None,
            seed=seeds if drawn else None,
            batch_size=len(tokens),
            grad=False,
        )
    values, passes = (-found.value.double()).tolist(), found.nfe.tolist()
    return [Scored(nats, nfe) for nats, nfe in zip(values, passes, strict=True)]


def score(
    denoiser: Denoiser,
    windows: Sequence[Window],
    protocol: Protocol,
    *,
    seed: int,
    batch: int,
    journal: Path,
    subject: dict[str, Any],
) -> list[Scored]:
    """Score all windows; what the journal has is not computed again.

    Args:
        denoiser: the model.
        windows: see `cut`.
        protocol: see `Protocol`.
        seed: from which the seed of each window is made.
        batch: windows per forward pass; no effect on the masks.
        journal: the file.
        subject: facts that the journal must have been begun with, such as the model's name.

    Raises:
        SettingsChanged: the journal belongs to another model, text, protocol or seed.
    """
    settings = {**subject, "protocol": asdict(protocol), "seed": seed, "texts": digest(windows)}
    book = Journal(journal, settings)
    found = {i: Scored(*value) for record in book.records for i, *value in record["windows"]}
    seeds = row_seeds(seed, len(windows))
    rest = [i for i in range(len(windows)) if i not in found]
    with tqdm(total=len(windows), initial=len(found), unit="window", disable=None) as bar:
        for some in _batches(windows, rest, batch):
            tokens = torch.tensor([windows[i].ids for i in some])
            editable = torch.zeros_like(tokens, dtype=torch.bool)
            for row, i in enumerate(some):
                begin, end = windows[i].scored
                editable[row, begin:end] = True
            values = nats_of(denoiser, tokens, editable, protocol, [seeds[i] for i in some])
            found |= dict(zip(some, values, strict=True))
            book.append(
                {"windows": [[i, v.nats, v.nfe] for i, v in zip(some, values, strict=True)]}
            )
            bar.update(len(some))
    return [found[i] for i in range(len(windows))]


def digest(windows: Sequence[Window]) -> str:
    """Return the first 12 hexadecimal digits of the SHA-256 of tokens and scored parts."""
    text = repr([(window.ids, window.scored) for window in windows])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _batches(windows: Sequence[Window], rest: list[int], batch: int) -> Iterator[list[int]]:
    """Yield batches of windows of one length, so that nothing is padded."""
    lengths: dict[int, list[int]] = {}
    for i in rest:
        lengths.setdefault(len(windows[i].ids), []).append(i)
    for same in lengths.values():
        yield from (same[first : first + batch] for first in range(0, len(same), batch))


def ratio(x: Sequence[float], y: Sequence[float]) -> tuple[float, float | None]:
    """Return sum x / sum y with its standard error, None of fewer than two."""
    n, total = len(x), math.fsum(y)
    found = math.fsum(x) / total
    if n < 2:
        return found, None
    squares = math.fsum((a - found * b) ** 2 for a, b in zip(x, y, strict=True))
    return found, math.sqrt(n / (n - 1) * squares) / total


def metrics(
    windows: Sequence[Window], scored: Sequence[Scored], *, group: str = "", note: str = ""
) -> list[Metric]:
    """Return nats per token, bits per character and perplexity; all three are upper bounds."""
    nats = [value.nats for value in scored]
    tokens = [float(window.tokens) for window in windows]
    mean, error = ratio(nats, tokens)
    bits, bits_error = ratio([x / math.log(2) for x in nats], [w.characters for w in windows])
    perplexity = math.exp(mean)

    def metric(name: str, value: float, unit: str, error: float | None) -> Metric:
        return Metric(
            name=name, value=value, unit=unit, n=len(windows), error=error, better="smaller",
            note=note, group=group,
        )  # fmt: skip

    return [
        metric("negative log-likelihood", mean, "nats per token", error),
        metric("bits per character", bits, "bits", bits_error),
        metric("perplexity", perplexity, "", None if error is None else perplexity * error),
    ]

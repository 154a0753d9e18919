"""Bound the likelihood of windows, batch by batch, with journals from which a killed run goes on.

Figures are ratios of sums over windows, with the standard error of a ratio,

    R = sum x / sum y,   se^2 = n / (n - 1) sum (x_i - R y_i)^2 / (sum y)^2

with x_i the nats of window i and y_i its tokens or characters: of texts and of masks together.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from dlm_eval.journal import Journal, records_of_all
from dlm_eval.likelihood.protocols import APART, DRAWN, Protocol
from dlm_eval.likelihood.windows import Window
from dlm_eval.report import Metric
from dlm_sampling import Denoiser, elbo, uniform_elbo
from dlm_sampling.jobs import Rank, out_of_memory
from dlm_sampling.ops import row_seeds

EQUAL = 1e-6  # relative; equal masks differ by rounding


@dataclass(frozen=True)
class Scored:
    """Hold the estimate of one window.

    Fields:
        nats: at least -log p in expectation.
        nfe: forward passes.
        error: standard error of the nats over the window's own masks, or over their groups; None
            where there is only one, or all of a window of several tokens were alike by chance.
    """

    nats: float
    nfe: int
    error: float | None = None


def nats_of(
    denoiser: Denoiser, tokens: Tensor, editable: Tensor, protocol: Protocol, seeds: Sequence[int]
) -> list[Scored]:
    """Bound -log p(tokens at `editable` | the others) of rows of one length."""
    if denoiser.process.name == "uniform":
        found = uniform_elbo(
            denoiser, tokens, editable=editable, n=protocol.masks, steps=protocol.steps, seed=seeds
        )
    else:
        drawn, groups = protocol.scheme in DRAWN, protocol.drawn_groups
        own = [one for seed in seeds for one in row_seeds(seed, groups)] if groups > 1 else seeds
        found = elbo(
            denoiser,
            tokens.repeat_interleave(groups, 0),
            editable=editable.repeat_interleave(groups, 0),
            scheme=protocol.scheme,
            n=protocol.masks // groups if drawn else None,
            seed=own if drawn else None,
            batch_size=len(tokens),
            grad=False,
        )
        if groups > 1:
            each, costs = -found.value.double().view(-1, groups), found.nfe.view(-1, groups)
            return _with_errors(each, each.mean(1).tolist(), costs.sum(1).tolist(), editable)
    values, passes = (-found.value.double()).tolist(), found.nfe.tolist()
    count = found.terms.shape[1]
    apart = denoiser.process.name == "uniform" or protocol.scheme in APART
    if not apart or count < 2:
        return [Scored(nats, nfe) for nats, nfe in zip(values, passes, strict=True)]
    return _with_errors(found.terms.double(), values, passes, editable)


def _with_errors(
    draws: Tensor, values: list[float], passes: list[int], editable: Tensor
) -> list[Scored]:
    """Return estimates with the standard error of the mean of independent draws [B, n]."""
    errors = (draws.std(1) / math.sqrt(draws.shape[1])).tolist()
    single = (editable.sum(1) == 1).tolist()  # all masks of one token are alike
    return [
        Scored(value, nfe, error if one or error > EQUAL * abs(value) else None)
        for value, nfe, error, one in zip(values, passes, errors, single, strict=True)
    ]


def score(
    denoiser: Denoiser,
    windows: Sequence[Window],
    protocol: Protocol,
    *,
    seed: int,
    batch: int,
    folder: Path,
    subject: dict[str, Any],
    rank: Rank,
) -> list[Scored] | None:
    """Score all windows, on any number of processes; what a journal has is not computed again.

    The figures depend neither on the batch, nor on the number of processes, nor on how often they
    were killed.

    Args:
        denoiser: the model.
        windows: see `cut`.
        protocol: see `Protocol`.
        seed: from which the seed of each window is made.
        batch: windows per forward pass, halved where they do not fit into memory.
        folder: of the journals, one for each process.
        subject: facts that the journals must have been begun with, such as the model's name.
        rank: this process among all.

    Returns:
        None in a process that finds others still at work.

    Raises:
        SettingsChanged: a journal belongs to another model, text, protocol or seed.
    """
    settings = {**subject, "protocol": asdict(protocol), "seed": seed, "texts": digest(windows)}
    journal = Journal(folder / f"{rank.index}.jsonl", settings)
    known = _known(journal)
    every = range(rank.index, len(windows), rank.world)
    rest = [i for i in every if i not in known]
    seeds = row_seeds(seed, len(windows))
    with tqdm(total=len(every), initial=len(every) - len(rest), unit="window", disable=None) as bar:
        for some in _batches(windows, rest, batch):
            for part, values in _in_halves(denoiser, windows, protocol, seeds, some):
                lines = [[i, v.nats, v.nfe, v.error] for i, v in zip(part, values, strict=True)]
                journal.append({"windows": lines})
                bar.update(len(part))
    known = _known(journal)
    if len(known) < len(windows):
        return None
    return [known[i] for i in range(len(windows))]


def _known(journal: Journal) -> dict[int, Scored]:
    records = records_of_all(journal)
    return {i: Scored(*value) for record in records for i, *value in record["windows"]}


def _in_halves(
    denoiser: Denoiser,
    windows: Sequence[Window],
    protocol: Protocol,
    seeds: Sequence[int],
    some: list[int],
) -> Iterator[tuple[list[int], list[Scored]]]:
    """Score windows of one length together, or in halves where they do not fit into memory."""
    tokens = torch.tensor([windows[i].ids for i in some])
    editable = torch.zeros_like(tokens, dtype=torch.bool)
    for row, i in enumerate(some):
        begin, end = windows[i].scored
        editable[row, begin:end] = True
    try:
        values = nats_of(denoiser, tokens, editable, protocol, [seeds[i] for i in some])
    except (RuntimeError, MemoryError) as error:
        if len(some) == 1 or not out_of_memory(error):
            raise
    else:
        yield some, values
        return
    middle = len(some) // 2
    for half in (some[:middle], some[middle:]):
        yield from _in_halves(denoiser, windows, protocol, seeds, half)


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
    windows: Sequence[Window],
    scored: Sequence[Scored],
    *,
    texts: int | None = None,
    group: str = "",
    basis: str = "",
) -> list[Metric]:
    """Return nats per token, bits per character and perplexity: estimates of upper bounds.

    Errors are those of texts and masks together.  A figure of one window, or of one text, has none:
    what its masks alone, or its windows, vary stands in its note.

    Args:
        windows: see `cut`.
        scored: see `score`.
        texts: n of the bits per character, which do not depend on the tokenizer's windows; None
            counts windows.
        group: see `Metric`.
        basis: names the tokens that the figures per token count.
    """
    nats = [value.nats for value in scored]
    tokens = [float(window.tokens) for window in windows]
    characters = [w.characters for w in windows]
    mean, error = ratio(nats, tokens)
    bits, bits_error = ratio([x / math.log(2) for x in nats], characters)
    spread_of = f"its {len(windows)} windows"
    if len(windows) == 1:
        spread_of = "its masks alone, from groups drawn independently,"
        if (own := scored[0].error) is not None:
            error, bits_error = own / tokens[0], own / math.log(2) / characters[0]
    perplexity = math.exp(mean)

    def metric(name: str, value: float, unit: str, error: float | None, n: int) -> Metric:
        note = f"standard error over {len(windows)} windows, of texts and masks together"
        if n == 1:
            note = "one text has no standard error"
            if error is not None:
                note += f"; {spread_of} would give {error:.4g}"
            error = None
        return Metric(
            name=name, value=value, unit=unit, n=n, error=error, better="smaller",
            note=note, group=group, basis=basis,
        )  # fmt: skip

    n = len(windows)
    of_texts = n if texts is None else texts
    per_character = metric("bits per character", bits, "bits", bits_error, of_texts)
    return [
        metric("negative log-likelihood", mean, "nats per token", error, n),
        replace(per_character, basis=""),
        metric("perplexity", perplexity, "", None if error is None else perplexity * error, n),
    ]

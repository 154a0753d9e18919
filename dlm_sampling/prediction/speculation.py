"""Predict canvases before a sampler asks for them: coupled speculation.

    step(x, l) -> x'    is a function of the canvas and its logits: random numbers are keyed
    l0 = logits of x0;  x1 = step(x0, l0);  x2 = step(x1, l0), ..., x_K: drafts, from stale logits
    one pass on x1, ..., x_K;  while the next canvas that a step asks for is among them, its logits
    are known already

Every step is taken by the sampler from the logits of its own canvas, whatever was guessed, so that
the tokens are those of a run without drafts, for any sampler at any temperature, up to rounding in
batches of another shape.  A pass over K canvases of a row is one round (NFE 1); `work` counts all.

Two published methods are of this kind, for greedy decoders and single rows.  FreeDave (Wu et al.
2025, arXiv:2510.00294) drafts the canvases of the next steps from stale logits too, in the order of
their confidences, and goes on at the farthest one with which its target, taken from the new logits,
agrees; at temperature 0 that is the canvas which is reached here step by step.  SSD (Gao et al.
2025, arXiv:2510.04147) drafts single positions and verifies a tree of them in one pass; the drafts
here are a chain, those of the sampler's own next steps, however many positions a step writes.  A
sampler that is a function of its random numbers needs no rule of acceptance: a guess is right if it
is the canvas that is asked for.  All save passes and no columns: `work` rises.  (Spiffy,
arXiv:2509.18085, learns from samples which canvases to draft; that is not here.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from dlm_sampling.prediction.passes import Passes
from dlm_sampling.types import DenoiserOutput
from dlm_sampling.types.values import ints


class Asking(Passes, Protocol):
    """Define the interface by which passes are made beforehand; `Predictor` implements it."""

    def repeated(self, n: int) -> Asking:
        """Return the same rows, each n times; see `Predictor.repeated`."""
        ...

    def unaided(self) -> Asking:
        """Return the same rows, whose passes are all run."""
        ...


class NoDraftError(Exception):
    """Say that a step needs more than logits of the model, so that it cannot be guessed."""


class Asked(NamedTuple):
    """Hold a canvas that a step asks the model about."""

    tokens: Tensor  # int64 [L]
    times: Tensor  # float64 [1 or 2], time and length of the step, where the model is told them

    def same(self, other: Asked) -> bool:
        """Return whether a prediction of one is that of the other."""
        return torch.equal(self.tokens, other.tokens) and torch.equal(self.times, other.times)


class Known(NamedTuple):
    """Hold a canvas of a row, and its prediction."""

    asked: Asked
    outputs: tuple[DenoiserOutput, ...]  # of one row, a pass each


class Ask(NamedTuple):
    """Hold the arguments of `Predictor.run` for the rows of a step."""

    x: Tensor
    t: Tensor
    temperature: Tensor | None
    dt: Tensor | None

    def of(self, row: int, told: bool) -> Asked:
        """Return what is asked for a row; `told` keeps the times."""
        parts = [self.t, *([] if self.dt is None else [self.dt])] if told else []
        times = [part[row : row + 1].double() for part in parts]
        return Asked(self.x[row], torch.cat(times) if times else self.t[:0].double())


class Served(Protocol):
    """Answer what a predictor asks the model."""

    def run(self, predictor: Asking, ask: Ask, active: Tensor | None) -> list[DenoiserOutput]:
        """Return the outputs for the rows `active`, int64 [n]; None: all."""
        ...

    def elsewhere(self) -> None:
        """Hear that a step asks another network, or of several steps at once."""
        ...


@dataclass
class Guesses:
    """Answer a step from what is known already, and predict drafts with what is not.

    Fields:
        width: canvases of a row in one pass, K.
        told: whether the model is told the time.
        known: canvases of each batch row with their predictions.
        latest: the latest prediction of each batch row in its block.
        draft: returns further canvases that each of some active rows (int64 [n]) may ask for.
    """

    width: int
    told: bool
    known: dict[int, list[Known]] = field(default_factory=dict[int, "list[Known]"])
    latest: dict[int, Known] = field(default_factory=dict[int, Known])
    draft: Callable[[Tensor], list[list[Asked]]] = field(default=lambda rows: [[] for _ in rows])

    def forget(self, rows: Tensor) -> None:
        """Forget all of batch rows, int64 [n], whose block is over."""
        for row in ints(rows):
            self.known.pop(row, None)
            self.latest.pop(row, None)

    def elsewhere(self) -> None:
        """Do nothing: such passes run as ever."""

    def run(self, predictor: Asking, ask: Ask, active: Tensor | None) -> list[DenoiserOutput]:
        """Return what is known, after a pass over the rows of which something is missing."""
        index = predictor.rows.index
        rows = ints(torch.arange(len(index)) if active is None else active)
        names = ints(index)
        wanted = {row: ask.of(row, self.told) for row in rows}
        missing = [row for row in rows if self._find(names[row], wanted[row]) is None]
        if missing:
            self._predict(predictor, ask, {row: wanted[row] for row in missing}, names)
        model, ready = predictor.model, [names[row] for row in rows if row not in missing]
        model.counts.known[ready] += model.passes
        found: list[Known] = []
        for row in rows:
            known = self._find(names[row], wanted[row])
            assert known is not None
            self.latest[names[row]] = known
            found.append(known)
        return joined(found)

    def _find(self, name: int, asked: Asked) -> Known | None:
        return next((known for known in self.known.get(name, []) if known.asked.same(asked)), None)

    def _predict(
        self, predictor: Asking, ask: Ask, wanted: dict[int, Asked], names: list[int]
    ) -> None:
        """Run the missing canvases, those with drafts in one pass and all others in another."""
        plain = predictor.unaided()
        device = ask.x.device
        guessed = [row for row in wanted if names[row] in self.latest]
        drafts = (
            dict(zip(guessed, self.draft(torch.tensor(guessed)), strict=True)) if guessed else {}
        )
        asked = {
            row: [first, *(d for d in drafts.get(row, []) if not d.same(first))][: self.width]
            for row, first in wanted.items()
        }
        alone = [row for row in asked if len(asked[row]) == 1]
        if alone:
            some = torch.tensor(alone, device=device)
            outputs = plain.run(ask.x, ask.t, some, ask.temperature, ask.dt)
            for i, row in enumerate(alone):
                self.known[names[row]] = [Known(wanted[row], _row(outputs, i))]
        together = [row for row in asked if len(asked[row]) > 1]
        if together:
            self._together(plain, ask, {row: asked[row] for row in together}, names)

    def _together(
        self, plain: Asking, ask: Ask, asked: dict[int, list[Asked]], names: list[int]
    ) -> None:
        """Run all canvases of some rows in one pass, which counts once for each row."""
        n, device = self.width, ask.x.device
        tokens, t, temperature, dt = (
            None if part is None else part.repeat_interleave(n, 0)
            for part in (ask.x, ask.t, ask.temperature, ask.dt)
        )
        assert tokens is not None
        assert t is not None
        places: list[tuple[int, int]] = []
        for row, canvases in asked.items():
            for k, one in enumerate(canvases):
                places.append((row, row * n + k))
                tokens[row * n + k] = one.tokens
                if self.told:
                    t[row * n + k] = one.times[0]
                    if dt is not None:
                        dt[row * n + k] = one.times[1]
        active = torch.tensor([place for _, place in places], device=device)
        outputs = plain.repeated(n).run(tokens, t, active, temperature, dt)
        counts, passes = plain.model.counts, plain.model.passes
        for row, canvases in asked.items():
            more = passes * (len(canvases) - 1)
            counts.nfe[names[row]] -= more
            counts.spared[names[row]] -= more  # work stays what it is
            first = places.index((row, row * n))
            self.known[names[row]] = [
                Known(one, _row(outputs, first + k)) for k, one in enumerate(canvases)
            ]


@dataclass
class Stale:
    """Answer a step with the latest prediction of each row, and note what it asked for.

    Fields:
        latest: of each of the rows, in their order.
        told: whether the model is told the time.
        asked: the canvases that each row asked for, in order.
    """

    latest: list[Known]
    told: bool
    asked: list[list[Asked]]

    def run(self, predictor: Asking, ask: Ask, active: Tensor | None) -> list[DenoiserOutput]:
        """Return the latest predictions, whatever is asked."""
        rows = list(range(len(self.latest))) if active is None else ints(active)
        for row in rows:
            self.asked[row].append(ask.of(row, self.told))
        return joined([self.latest[row] for row in rows])

    def elsewhere(self) -> None:
        """Refuse: nothing is known of another network.

        Raises:
            NoDraftError: always.
        """
        raise NoDraftError


def _row(outputs: list[DenoiserOutput], i: int) -> tuple[DenoiserOutput, ...]:
    """Return the outputs of one row."""
    return tuple(
        out._replace(
            values=out.values[i : i + 1],
            columns=None if out.columns is None else out.columns[i : i + 1],
        )
        for out in outputs
    )


def joined(found: list[Known]) -> list[DenoiserOutput]:
    """Return the outputs of several rows as one, padded to the same width."""
    outputs: list[DenoiserOutput] = []
    for parts in zip(*(known.outputs for known in found), strict=True):
        width = max(part.values.shape[1] for part in parts)
        values = [
            torch.nn.functional.pad(part.values, (0, 0, 0, width - part.values.shape[1]))
            for part in parts
        ]
        columns = [part.columns for part in parts if part.columns is not None]
        outputs.append(
            parts[0]._replace(
                values=torch.cat(values),
                columns=torch.cat(columns) if len(columns) == len(parts) else None,
            )
        )
    return outputs

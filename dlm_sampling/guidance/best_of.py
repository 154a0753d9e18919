"""Take M candidates of every step and go on with one of them by its value: SVDD.

    m ~ softmax(v(z_s^m) / a)   over z_s^1, ..., z_s^M ~ q(. | z_t);   a = 0 takes the best

MC: v is a value of the noisy canvas z_s, such as a learned head.  PM: v is a reward of the canvas
filled by the argmax of one further pass at z_s.  The released code takes a = 0.  With the exact
soft value a log E[exp(r / a) | z_s] and M -> infinity a run has the law P(x) exp(r(x) / a) / Z.
Li et al. 2024, "Derivative-Free Guidance in Continuous and Discrete Diffusion Models with Soft
Value-Based Decoding", arXiv:2408.08252.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from dlm_sampling.errors import check_fields, named, unknown_choice
from dlm_sampling.guidance.base import Guidance, one_per_row
from dlm_sampling.ops import Stream
from dlm_sampling.types import (
    Canvas,
    Clock,
    Forwarding,
    Predict,
    Prediction,
    RandomSource,
    Sampler,
    Step,
)
from dlm_sampling.types.rows import where_rows

Kind = Literal["MC", "PM"]


@dataclass(frozen=True)
class BestOf(Guidance):
    """Choose among M candidates of every step.

    Fields:
        value: maps canvases int64 [n, L] to values [n]: noisy ones with kind "MC", filled ones with
            "PM".
        m: candidates; 1 is the run without guidance.
        temperature: a >= 0 in the units of the value; 0 takes the candidate of the largest value.
        kind: "MC" or "PM".

    NFE: "MC" that of the run, as all candidates of a step come from one pass; "PM" M more per step.
    A sampler of several passes per step has those after the first for each candidate.
    """

    value: Callable[[Tensor], Tensor]
    m: int = 10
    temperature: float = 0.0
    kind: Kind = "PM"

    def __post_init__(self) -> None:
        if not callable(self.value):
            raise TypeError(f"value is {named(self.value)}: must be a function of canvases.")
        if self.kind not in get_args(Kind):
            raise unknown_choice("kind", self.kind, get_args(Kind))
        check_fields(self)
        if self.m < 1:
            raise ValueError(f"m={self.m}: must be at least 1; try 10.")
        if not 0.0 <= self.temperature < math.inf:
            raise ValueError(
                f"temperature={self.temperature}: must be finite and >= 0; 0 takes the best."
            )

    @property
    def chooses(self) -> bool:
        """Return whether there is more than one candidate."""
        return self.m > 1

    @property
    def looks_ahead(self) -> bool:
        """Return whether canvases are filled, in blocks to come too."""
        return self.chooses and self.kind == "PM"

    def step(
        self,
        sampler: Sampler[Any],
        state: Any,
        canvas: Canvas,
        clock: Clock,
        predict: Predict,
        rng: RandomSource,
    ) -> tuple[Any, Step]:
        """Take M steps from the same canvas, and return one of them."""
        if self.m == 1:
            return sampler.step(state, canvas, clock, predict, rng)
        shared = SharedPasses(predict)
        steps = [
            sampler.step(state, canvas, clock, shared, rng.branch(number))
            for number in range(self.m)
        ]
        values = [self.value_of(sampler, canvas, step, predict, rng) for _, step in steps]
        chosen = self.choose(torch.stack(values, 1), rng)
        taken = _plain(steps[0])
        for number in range(1, self.m):
            taken = where_rows(chosen == number, _plain(steps[number]), taken)
        return taken

    def value_of(
        self,
        sampler: Sampler[Any],
        canvas: Canvas,
        step: Step,
        predict: Predict,
        rng: RandomSource,
    ) -> Tensor:
        """Return the value of a candidate, float64 [B]."""
        after = torch.where(canvas.editable, step.tokens, canvas.tokens)
        if self.kind == "PM":
            unknown = torch.where(canvas.editable, step.unknown, canvas.unknown)
            moved = canvas._replace(tokens=after, unknown=unknown)
            t = sampler.schedule.time_of(1.0 - moved.unknown_fraction)
            greedy = torch.ones_like(canvas.start, dtype=torch.bool)
            where = moved.unknown
            filled = predict(after, t).draw(where, rng, greedy=greedy, sub=14, aside=True)
            after = torch.where(where, filled.token, after)
        return one_per_row("value", self.value(after), len(after))

    def choose(self, values: Tensor, rng: RandomSource) -> Tensor:
        """Return the number of the candidate to go on with, int64 [B], by values [B, M]."""
        if self.temperature == 0.0:
            return values.argmax(1)
        like = torch.zeros_like(values[:, 0])
        noise = [rng.gumbel(Stream.RESAMPLE, like, number) for number in range(self.m)]
        return (values / self.temperature + torch.stack(noise, 1)).argmax(1)


def _plain(taken: tuple[Any, Step]) -> tuple[Any, Step]:
    """Return a state and a step without its draw, which is no tree of row tensors."""
    state, step = taken
    return state, step._replace(draw=None)


Asked = tuple[tuple[Tensor, Tensor, Tensor | None, Tensor | None], Prediction]
"""Canvases, times, temperatures and lengths of steps, and their prediction."""


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    """Return whether two tensors, or two that are not given, are the same."""
    if one is None or other is None:
        return one is other
    return torch.equal(one, other)


@dataclass
class SharedPasses(Forwarding[Predict]):
    """Answer equal questions about a canvas by one prediction, so that its pass runs once.

    Fields:
        seen: the questions and predictions so far.
    """

    seen: list[Asked] = field(default_factory=list[Asked])

    def __call__(
        self,
        x: Tensor,
        t: Tensor,
        temperature: Tensor | None = None,
        *,
        dt: Tensor | None = None,
    ) -> Prediction:
        """Predict, or return the prediction of the same canvases, times, temperatures and steps."""
        given = (x, t, temperature, dt)
        for known, prediction in self.seen:
            if all(map(_same, known, given)):
                return prediction
        prediction = self.inner(x, t, temperature, dt=dt)
        self.seen.append((given, prediction))
        return prediction

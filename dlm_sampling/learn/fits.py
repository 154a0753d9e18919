"""Fit coefficients to sums: in closed form, or step by step with Adam.

    closed    phi = B / A of the sums over all rows so far
    gradient  phi <- phi - Adam(d loss / d phi) with the sums of one round of rows,
              squared: phi - B / A,   score-entropy: 1 - B / (A phi)

A fit is a value that goes on from round to round and fits into a file.  Kingma and Ba 2014, "Adam:
A Method for Stochastic Optimization", arXiv:1412.6980.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, Self

import torch
from torch import Tensor

from dlm_sampling.learn.targets import DivergenceName, Sums, coefficients
from dlm_sampling.types.values import floats

FitName = Literal["closed", "gradient"]
LEAST = 1e-3  # of a coefficient under Adam: the gradient of score-entropy is infinite at 0


class Fit(Protocol):
    """Hold coefficients that are being fitted."""

    @property
    def phi(self) -> Tensor:
        """Return the coefficients, float64 [M]."""
        ...

    def after(self, sums: Sums) -> Self:
        """Return the fit after one more round."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        ...

    def read(self, record: Mapping[str, Any]) -> Self:
        """Return a fit of this kind from `to_dict`."""
        ...


@dataclass(frozen=True)
class ClosedForm:
    """Fit by the minimiser over all rows so far."""

    linear: bool
    sums: Sums

    @property
    def phi(self) -> Tensor:
        """Return B / A; 1 before the first round."""
        return coefficients(self.sums, linear=self.linear)

    def after(self, sums: Sums) -> ClosedForm:
        """Return the fit with the sums of one more round."""
        own, other = self.sums.own + sums.own, self.sums.other + sums.other
        return replace(self, sums=Sums(own, other))

    def to_dict(self) -> dict[str, Any]:
        """Return the sums."""
        return {"own": self.sums.own.tolist(), "other": self.sums.other.tolist()}

    def read(self, record: Mapping[str, Any]) -> ClosedForm:
        """Read the sums."""
        return replace(self, sums=Sums(_doubles(record["own"]), _doubles(record["other"])))


@dataclass(frozen=True)
class Adam:
    """Fit by Adam on the loss of each round's rows, divided by A so that steps have one scale."""

    linear: bool
    slope: Callable[[Tensor, Tensor], Tensor]
    rate: float
    phi: Tensor
    mean: Tensor
    square: Tensor
    rounds: int = 0

    def after(self, sums: Sums) -> Adam:
        """Return the fit after one step down the slope."""
        n = self.rounds + 1
        slope = self.slope(self.phi, coefficients(sums, linear=self.linear))
        mean = 0.9 * self.mean + 0.1 * slope
        square = 0.999 * self.square + 0.001 * slope * slope
        way = (mean / (1.0 - 0.9**n)) / ((square / (1.0 - 0.999**n)).sqrt() + 1e-8)
        phi = (self.phi - self.rate * way).clamp_min(LEAST)
        return replace(self, phi=phi, mean=mean, square=square, rounds=n)

    def to_dict(self) -> dict[str, Any]:
        """Return the coefficients and moments."""
        return {
            "phi": floats(self.phi),
            "mean": floats(self.mean),
            "square": floats(self.square),
            "rounds": self.rounds,
        }

    def read(self, record: Mapping[str, Any]) -> Adam:
        """Read coefficients and moments."""
        phi, mean, square = (_doubles(record[name]) for name in ("phi", "mean", "square"))
        return replace(self, phi=phi, mean=mean, square=square, rounds=int(record["rounds"]))


def _doubles(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _squared(phi: Tensor, ratio: Tensor) -> Tensor:
    return phi - ratio


def _score_entropy(phi: Tensor, ratio: Tensor) -> Tensor:
    return 1.0 - ratio / phi


SLOPES: Mapping[DivergenceName, Callable[[Tensor, Tensor], Tensor]] = {
    "squared": _squared,
    "score-entropy": _score_entropy,
}


def closed_form(
    number: int, finer: int, linear: bool, divergence: DivergenceName, rate: float
) -> Fit:
    """Begin in closed form: M = `number` steps of n = `finer` teacher steps each."""
    zeros = torch.zeros(number, finer, dtype=torch.float64)
    return ClosedForm(linear, Sums(zeros, zeros))


def gradient(number: int, finer: int, linear: bool, divergence: DivergenceName, rate: float) -> Fit:
    """Begin with Adam, all coefficients 1."""
    zeros = torch.zeros(number, dtype=torch.float64)
    return Adam(linear, SLOPES[divergence], rate, torch.ones_like(zeros), zeros, zeros)


FITS: Mapping[FitName, Callable[[int, int, bool, DivergenceName, float], Fit]] = {
    "closed": closed_form,
    "gradient": gradient,
}

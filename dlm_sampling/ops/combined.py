"""Combine two logits per token in the pass that reads them, without storing the result.

Guided:     x = u + (w + 1) (c - u)                    classifier-free guidance on logits
Remainder:  x = ln [a1 p*(v) - a2 p(v)]_+              theta-trapezoidal and theta-RK-2 rates

with p* and p softmax laws.  Ho and Salimans 2022, "Classifier-Free Diffusion Guidance",
arXiv:2207.12598; Ren et al. 2025, "Fast Solvers for Discrete Diffusion Models", arXiv:2502.00234,
algorithms 1 and 2.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dlm_sampling.ops.sources import LogitRows
from dlm_sampling.ops.temperature import LOG2E


@dataclass(frozen=True)
class Pair(ABC):
    """Hold two tensors of logits [N, V], of one device and dtype, and the rule that combines them.

    Args:
        first: logits [N, V].
        second: logits [N, V].

    Raises:
        ValueError: the two do not fit each other.
    """

    first: Tensor
    second: Tensor

    kind: ClassVar[int]
    """The number of the formula in the kernels."""

    def __post_init__(self) -> None:
        one, other = self.first, self.second
        if one.shape != other.shape or one.dtype != other.dtype or one.device != other.device:
            raise ValueError(
                f"first is {one.dtype} {tuple(one.shape)} on {one.device}, second {other.dtype} "
                f"{tuple(other.shape)} on {other.device}: must be alike."
            )

    @abstractmethod
    def mix(self) -> Tensor:
        """Return two numbers per row, [2, N] or [2, 1]; float32, or float64 for float64 logits."""

    @abstractmethod
    def combined(self, first: Tensor, second: Tensor, mix: Tensor) -> Tensor:
        """Combine two tensors of logits [r, V] into one; mix [2, r, 1]."""

    @property
    def dtype(self) -> torch.dtype:
        """Return the dtype of the arithmetic: float64 for float64 logits, else float32."""
        return torch.float64 if self.first.dtype == torch.float64 else torch.float32

    def logits(self) -> Tensor:
        """Return the combined logits, [N, V]."""
        one, other = self.first.to(self.dtype), self.second.to(self.dtype)
        return self.combined(one, other, self.mix().unsqueeze(-1))

    def rows(self) -> LogitRows:
        """Return the combined logits on demand, [N, V]."""
        count, vocab = self.first.shape
        mix = self.mix().expand(2, count)

        def fetch(index: Tensor) -> Tensor:
            one, other = (
                x.index_select(0, index).to(self.dtype) for x in (self.first, self.second)
            )
            return self.combined(one, other, mix[:, index, None])

        return LogitRows(fetch, count, vocab, self.first.device, dtype=self.dtype)

    def _numbers(self, *values: float | Tensor) -> Tensor:
        device = self.first.device
        one, other = (
            torch.as_tensor(v, dtype=self.dtype, device=device).reshape(-1) for v in values
        )
        length = max(len(one), len(other))
        return torch.stack([one.expand(length), other.expand(length)])


@dataclass(frozen=True)
class Guided(Pair):
    """Combine logits with and without a condition, u + (w + 1) (c - u): guidance.

    Args:
        first: logits c with the condition, [N, V].
        second: logits u without it, [N, V].
        weight: w, one number or [N]; 0 is c alone.
    """

    weight: float | Tensor = 0.0

    kind: ClassVar[int] = 1

    def mix(self) -> Tensor:
        """Return the factor w + 1, twice."""
        weight = self.weight + 1.0
        return self._numbers(weight, weight)

    def combined(self, first: Tensor, second: Tensor, mix: Tensor) -> Tensor:
        """Return guided logits u + (w + 1) (c - u)."""
        return second + mix[0] * (first - second)


@dataclass(frozen=True)
class Remainder(Pair):
    """Compute log-rates ln [a1 p* - a2 p]_+; a draw's log-normaliser is the log of their sum.

    Args:
        first: logits [N, V] of p*.
        second: logits [N, V] of p.
        first_normalizer: logsumexp of the rows of `first`, [N]; `Draw.log_normalizer` has it.
        second_normalizer: logsumexp of the rows of `second`, [N].
        factors: (a1, a2), both >= 0, each one number or [N].
    """

    first_normalizer: Tensor
    second_normalizer: Tensor
    factors: tuple[float | Tensor, float | Tensor]

    kind: ClassVar[int] = 2

    def mix(self) -> Tensor:
        """Return the numbers subtracted from the logits before the exponentials."""
        logs = self._numbers(*self.factors).log()
        return self._numbers(self.first_normalizer, self.second_normalizer) - logs

    def combined(self, first: Tensor, second: Tensor, mix: Tensor) -> Tensor:
        """Return log-rates ln [a1 p* - a2 p]_+."""
        first = (first - mix[0]).mul_(LOG2E).exp2_()
        second = (second - mix[1]).mul_(LOG2E).exp2_()
        return first.sub_(second).clamp_min_(0.0).log_()

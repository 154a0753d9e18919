"""Describe noise by any transition matrices, as processes that the loop runs; V up to 4096.

With sigma = -ln alpha the time that the chain has run, K(s, t)[i, j] = P(x_t = j | x_s = i):

    RateMatrix    K(s, t) = exp((sigma_t - sigma_s) Q)
    MatrixChain   K(s, t) = Q_{s+1} ... Q_t,  s and t the steps nearest to T (1 - alpha)

    leave-one-out:  p(x_s = y | x_t = x) ~ K(s, t)[y, x] sum_k loo(k) K(0, s)[k, y]

Q = 1 1' / V - I is uniform noise.  Austin et al. 2021, arXiv:2107.03006 (D3PM); rates in continuous
time: Campbell et al. 2022, arXiv:2205.14987.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from dlm_sampling.ops import Stream
from dlm_sampling.processes import matrices
from dlm_sampling.processes.tables import normalised, off_diagonal, per_position, value_at
from dlm_sampling.types import NoiseKind, PredictionKind, RandomSource
from dlm_sampling.types.values import distinct, float_rows

_KEPT = 16  # matrices that are remembered; a step of a grid needs three
_LEAST = 1e-12  # of alpha: beyond sigma = 28 a chain has forgotten everything


class Transitions(ABC):
    """Serve as the base of both kinds of chain; a subclass supplies `kernel`.

    Args:
        prior_law: law of a token of pure noise, [V].
    """

    name: ClassVar[NoiseKind] = "matrix"
    reads: ClassVar[PredictionKind] = "leave_one_out"
    """The kind of prediction that `reverse` plugs in."""
    rates_read: ClassVar[PredictionKind] = "posterior"
    """The kind of prediction that `rates` takes."""

    def __init__(self, prior_law: Tensor) -> None:
        self.prior_law = prior_law.double() / prior_law.double().sum()
        self._kernels: dict[tuple[float, float], Tensor] = {}

    @property
    def mask_token_id(self) -> None:
        """Return None; masking has a process of its own."""
        return None

    @abstractmethod
    def kernel(self, alpha_s: float, alpha_t: float) -> Tensor:
        """Return P(x_t = j | x_s = i), float64 [V, V], alpha_s >= alpha_t."""

    @abstractmethod
    def generator(self) -> Tensor:
        """Return Q[i, j], the rate of i -> j per unit of sigma, [V, V].

        Raises:
            ValueError: the chain has discrete steps.
        """

    def prior(self, like: Tensor, rng: RandomSource, vocab_size: int) -> Tensor:
        """Draw independent tokens of `prior_law`, int64 like `like`.

        Raises:
            ValueError: the denoiser has another number of tokens.
        """
        if vocab_size != len(self.prior_law):
            raise ValueError(
                f"vocab_size={vocab_size}: the matrices of this process are for "
                f"{len(self.prior_law)} tokens; pass the process that the denoiser was trained on."
            )
        u = rng.uniform(Stream.INITIAL, like)
        bounds = self.prior_law.to(u.device).cumsum(0)
        return torch.searchsorted(bounds, u).clamp_(max=vocab_size - 1)

    def noised(self, x: Tensor, alpha: float, rng: RandomSource, vocab_size: int) -> Tensor:
        """Draw x_t given x0 = x from `forward`; a table of [B, L, V] is made."""
        clean = torch.nn.functional.one_hot(x, vocab_size).double()
        bounds = self.forward(clean, torch.full(x.shape, alpha).to(clean)).cumsum(-1)
        u = rng.uniform(Stream.START, x).unsqueeze(-1)
        return torch.searchsorted(bounds, u).squeeze(-1).clamp_(max=vocab_size - 1)

    def convert(
        self,
        values: Tensor,
        x: Tensor,
        alpha: Tensor,
        source: PredictionKind,
        target: PredictionKind,
    ) -> Tensor:
        """Convert one kind of prediction into another.

            post(k) ~ loo(k) K(0, t)[k, x],   s(y) = (loo K(0, t))(y) / (loo K(0, t))(x)

        Arguments as in `conversions.convert_uniform`.
        """
        if source == target:
            return values
        loo = values if source == "leave_one_out" else self._to_loo[source](values, x, alpha)
        return loo if target == "leave_one_out" else self._from_loo[target](loo, x, alpha)

    def forward(self, law: Tensor, alpha: Tensor) -> Tensor:
        """Return the law of x_t when x0 has `law`; alpha broadcast to [...]."""
        return self._times(law, torch.ones_like(alpha), alpha)

    def reverse(self, loo: Tensor, x: Tensor, alpha_t: Tensor, alpha_s: Tensor) -> Tensor:
        """Return the law of x_s given x_t, leave-one-out law plugged in for x0, [..., V].

        Cost: two products with [V, V] matrices per level.
        """
        law = normalised(
            self._into(x, alpha_s, alpha_t, loo)
            * self._times(loo, torch.ones_like(alpha_s), alpha_s)
        )
        # Without noise left x stays; where the law excludes x, the law decides.
        excluded = (value_at(loo, x) == 0.0) & (per_position(alpha_t, x, loo) >= 1.0)
        return law.where(~excluded, loo)

    def rates(self, post: Tensor, x: Tensor, alpha: Tensor, slope: Tensor) -> Tensor:
        """Return the rates backwards in time from the posterior, [..., V]; Campbell et al. 2022."""
        reached = self._into(x, torch.ones_like(alpha), alpha, post)
        weights = torch.where(reached > 0, post / reached, 0.0)
        back = self.generator().to(post).T[x]
        ratio = self._times(weights, torch.ones_like(alpha), alpha)
        return off_diagonal(self._speed(alpha, slope, x) * back * ratio, x)

    def noising_rates(self, x: Tensor, alpha: Tensor, slope: Tensor, like: Tensor) -> Tensor:
        """Return the rates forwards in time, beta Q[x, y], 0 at x; beta = slope / alpha."""
        return off_diagonal(self._speed(alpha, slope, x) * self.generator().to(like)[x], x)

    def _speed(self, alpha: Tensor, slope: Tensor, x: Tensor) -> Tensor:
        return (slope / alpha.clamp_min(_LEAST)).expand(x.shape).unsqueeze(-1)

    @property
    def _to_loo(self) -> dict[PredictionKind, Callable[[Tensor, Tensor, Tensor], Tensor]]:
        return {"posterior": self._loo_from_posterior, "log_score": self._loo_from_score}

    @property
    def _from_loo(self) -> dict[PredictionKind, Callable[[Tensor, Tensor, Tensor], Tensor]]:
        return {"posterior": self._posterior, "log_score": self._score}

    def _posterior(self, loo: Tensor, x: Tensor, alpha: Tensor) -> Tensor:
        return normalised(loo * self._into(x, torch.ones_like(alpha), alpha, loo))

    def _loo_from_posterior(self, post: Tensor, x: Tensor, alpha: Tensor) -> Tensor:
        reached = self._into(x, torch.ones_like(alpha), alpha, post)
        return normalised(torch.where(reached > 0, post / reached, 0.0))

    def _score(self, loo: Tensor, x: Tensor, alpha: Tensor) -> Tensor:
        noised = self.forward(loo, alpha)
        return noised / value_at(noised, x)

    def _loo_from_score(self, score: Tensor, x: Tensor, alpha: Tensor) -> Tensor:
        noised = score / score.sum(-1, keepdim=True)

        def undo(rows: Tensor, kernel: Tensor) -> Tensor:
            return torch.linalg.solve(kernel.T, rows.T).T  # pyright: ignore[reportUnknownVariableType]

        return normalised(self._by_level(noised, torch.ones_like(alpha), alpha, undo))

    def _times(self, law: Tensor, alpha_s: Tensor, alpha_t: Tensor) -> Tensor:
        """Return the rows of a table times K(s, t)."""
        return self._by_level(law, alpha_s, alpha_t, torch.matmul)

    def _into(self, x: Tensor, alpha_s: Tensor, alpha_t: Tensor, like: Tensor) -> Tensor:
        """Return column x of K(s, t): P(x_t = x | x_s = y) for all y, [..., V]."""
        one_hot = torch.nn.functional.one_hot(x, like.shape[-1]).to(like.dtype)

        def column(rows: Tensor, kernel: Tensor) -> Tensor:
            return rows @ kernel.T

        return self._by_level(one_hot, alpha_s, alpha_t, column)

    def _by_level(
        self,
        table: Tensor,
        alpha_s: Tensor,
        alpha_t: Tensor,
        apply: Callable[[Tensor, Tensor], Tensor],
    ) -> Tensor:
        """Apply K(s, t) to a table [..., V], the rows of one pair of levels together."""
        flat = table.reshape(-1, table.shape[-1])
        shape = table.shape[:-1]
        levels = torch.stack([a.double().expand(shape).flatten() for a in (alpha_s, alpha_t)], 1)
        out = torch.empty_like(flat)
        for alpha_0, alpha_1 in float_rows(distinct(levels)[0]):
            rows = (levels[:, 0] == alpha_0) & (levels[:, 1] == alpha_1)
            out[rows] = apply(flat[rows], self._kernel(alpha_0, alpha_1).to(flat))
        return out.view(table.shape)

    def _kernel(self, alpha_s: float, alpha_t: float) -> Tensor:
        """Return `kernel`, remembered: the positions and rows of a step share their levels."""
        key = (alpha_s, alpha_t)
        if key not in self._kernels:
            while len(self._kernels) >= _KEPT:
                self._kernels.pop(next(iter(self._kernels)))
            self._kernels[key] = self.kernel(alpha_s, alpha_t)
        return self._kernels[key]


class RateMatrix(Transitions):
    """Describe a Markov chain in continuous time, K = exp(Q sigma).

    A reversible Q, such as every symmetric one, is diagonalised once; others cost a matrix
    exponential per pair of levels.

    Args:
        rates: Q, [V, V], Q[i, j] >= 0 the rate of i -> j, rows sum to 0.

    Raises:
        ValueError: not square, too large, a negative rate, or rows that do not sum to 0.
    """

    def __init__(self, rates: Tensor) -> None:
        """See the class."""
        matrices.check_square("rates", rates)
        rates = rates.double()
        scale = float(rates.abs().max())
        if bool((rates - torch.diag(rates.diagonal()) < 0).any()):
            raise ValueError("rates: entries off the diagonal must be >= 0.")
        if float(rates.sum(1).abs().max()) > 1e-9 * max(scale, 1.0):
            raise ValueError("rates: every row must sum to 0; the diagonal is minus the others.")
        self._rates = rates
        super().__init__(_stationary(rates))
        self._modes = _diagonalised(rates, self.prior_law)

    def generator(self) -> Tensor:
        """Return Q."""
        return self._rates

    def kernel(self, alpha_s: float, alpha_t: float) -> Tensor:
        """Return exp(Q ln(alpha_s / alpha_t)), float64 [V, V]."""
        time = math.log(max(alpha_s, _LEAST) / max(alpha_t, _LEAST))
        if self._modes is None:
            return matrices.transition(self._rates, time)
        left, values, right = self._modes
        return ((left * (values * time).exp()) @ right).clamp_min(0.0)


class MatrixChain(Transitions):
    """Describe D3PM's chain of T one-step matrices; time t is step T t, alpha = 1 - t.

    Use it with the linear schedule and `steps` that divide T; other levels take the nearest step.

    Args:
        steps: Q_1 .. Q_T, row-stochastic [V, V]; `processes.matrices` makes the published ones.
        prior_law: law of pure noise, [V]; default: that of x_T from a uniform x_0.

    Raises:
        ValueError: no matrix, or one that is not square or not stochastic.
    """

    def __init__(self, steps: Sequence[Tensor], prior_law: Tensor | None = None) -> None:
        """See the class."""
        if not steps:
            raise ValueError("steps: is empty; give the one-step matrices Q_1 .. Q_T.")
        for k, step in enumerate(steps):
            matrices.check_square(f"steps[{k}]", step)
            if bool((step < 0).any()) or float((step.sum(1) - 1).abs().max()) > 1e-6:
                raise ValueError(f"steps[{k}]: rows must be laws, >= 0 and of sum 1.")
        self.steps = [step.double() for step in steps]
        size = len(steps[0])
        start = torch.full((size,), 1.0 / size, dtype=torch.float64)
        super().__init__(start if prior_law is None else prior_law)
        if prior_law is None:
            self.prior_law = start @ self.kernel(1.0, 0.0)

    def generator(self) -> Tensor:
        """Raise ValueError: a chain of discrete steps has no rates.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "a chain of discrete steps has no rates: sample it with sampler='ancestral', or make a "
            "RateMatrix for solvers in continuous time."
        )

    def kernel(self, alpha_s: float, alpha_t: float) -> Tensor:
        """Return Q_{s+1} ... Q_t, float64 [V, V]."""
        first, last = (round(len(self.steps) * (1.0 - a)) for a in (alpha_s, alpha_t))
        out = torch.eye(len(self.steps[0]), dtype=torch.float64)
        for step in self.steps[first:last]:
            out = out @ step
        return out


def _stationary(rates: Tensor) -> Tensor:
    """Return the law pi with pi Q = 0, [V]; unique where the chain reaches every symbol."""
    system = torch.cat((rates.T, torch.ones(1, len(rates), dtype=rates.dtype)))
    target = torch.zeros(len(rates) + 1, 1, dtype=rates.dtype)
    target[-1] = 1.0
    linalg: Any = torch.linalg
    law: Tensor = linalg.lstsq(system, target, driver="gelsd").solution.squeeze(1)
    return law.clamp_min(0.0)


def _diagonalised(rates: Tensor, law: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
    """Return Q = left diag(values) right if Q is reversible with respect to `law`, else None."""
    if float(law.min()) <= 0.0:
        return None
    root = law.sqrt()
    symmetric = root.unsqueeze(1) * rates / root
    if not torch.allclose(symmetric, symmetric.T, atol=1e-10, rtol=1e-9):
        return None
    linalg: Any = torch.linalg
    values, vectors = linalg.eigh((symmetric + symmetric.T) / 2)
    return vectors / root.unsqueeze(1), values, vectors.T * root

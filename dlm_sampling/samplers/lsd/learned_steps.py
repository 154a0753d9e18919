"""Hold the learned coefficients and times of a solver's steps (LSD, learned sampler distillation).

    step k goes from t_k to t_{k+1} and multiplies the solver's rates by phi_k,   k = 0..M - 1

"Learnable Sampler Distillation for Discrete Diffusion Models", arXiv:2509.19962.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dlm_sampling.errors import check_fields, unknown_choice
from dlm_sampling.processes.coefficients import APPLY, Apply
from dlm_sampling.processes.tables import per_position
from dlm_sampling.schedules import grid_time
from dlm_sampling.types import NoiseKind, Process


@dataclass(frozen=True)
class LearnedSteps:
    """Hold the learned coefficients and times of a solver's steps.

    Fields:
        phi: one coefficient >= 0 per interval of the grid, or None for 1 everywhere.
        t_grid: times of the grid's points, one more than intervals, falling or equal within
            [0, 1]; None for equal steps.
        apply: "rate" multiplies the rates; "log_score" multiplies the logarithms of the ratios, as
            the released code does, which is a temperature on the tokens as well.
        process: the noise that the numbers were learnt for, or None for any.
    """

    phi: Sequence[float] | None = None
    t_grid: Sequence[float] | None = None
    apply: Apply = "rate"
    process: NoiseKind | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        for name, values in (("phi", self.phi), ("t_grid", self.t_grid)):
            object.__setattr__(self, name, None if values is None else tuple(values))
        if self.phi is not None and not all(0.0 <= value < math.inf for value in self.phi):
            raise ValueError(f"phi={self.phi}: must be finite and >= 0; 1 is the solver itself.")
        if self.phi == ():
            raise ValueError("phi=(): needs a coefficient per step, or None for 1 everywhere.")
        if self.t_grid is None:
            return
        inside = all(0.0 <= t <= 1.0 for t in self.t_grid)
        if not inside or any(t < s for t, s in itertools.pairwise(self.t_grid)):
            raise ValueError(
                f"t_grid={self.t_grid}: must be within [0, 1] and never rise, from noise to data."
            )
        if len(self.t_grid) < 2:
            raise ValueError(f"t_grid={self.t_grid}: needs at least the two ends of a step.")
        if self.phi is not None and len(self.t_grid) != len(self.phi) + 1:
            raise ValueError(
                f"t_grid has {len(self.t_grid)} times for {len(self.phi)} coefficients: needs one "
                "more time than coefficients."
            )

    @property
    def intervals(self) -> int | None:
        """Return how many intervals the grid of these numbers has, or None for any grid."""
        if self.t_grid is not None:
            return len(self.t_grid) - 1
        return None if self.phi is None else len(self.phi)

    @property
    def neutral(self) -> bool:
        """Return whether every coefficient is 1."""
        return self.phi is None or all(value == 1.0 for value in self.phi)

    def restricted(self, noise: tuple[NoiseKind, ...]) -> tuple[NoiseKind, ...]:
        """Return the noise kinds of a solver, restricted to that of the coefficients.

        Raises:
            ValueError: they were learnt for none of them.
        """
        if self.process is None:
            return noise
        if self.process not in noise:
            raise unknown_choice("process", self.process, noise, "Another base may fit.")
        return (self.process,)

    def check(self, planned: int, own: int | None) -> None:
        """Refuse a plan for another number of steps than the numbers were learnt for.

        Args:
            planned: planned steps of a block.
            own: steps that the numbers belong to, or None for any.

        Raises:
            ValueError: they differ.
        """
        if own is not None and planned != own:
            raise ValueError(
                f"steps={planned} in a block: the coefficients were learnt for {own}. Leave out "
                f"steps, or pass steps_per_block={own}; learn others with `dlm-sampling learn`."
            )

    def time_at(self, k: Tensor, number: Tensor, t_end: float) -> Tensor:
        """Return the time of grid point k, float64 like k; beyond the last one its time."""
        if self.t_grid is None:
            return grid_time(k, number, t_end)
        times = torch.tensor(self.t_grid, dtype=torch.float64, device=k.device)
        return times[k.clamp(max=len(self.t_grid) - 1)]

    def at(self, t: Tensor, t_end: float) -> Tensor:
        """Return the coefficient of the step (t_{k+1}, t_k] that holds t, float64 like t."""
        if self.phi is None:
            return torch.ones_like(t)
        number = torch.tensor(len(self.phi), device=t.device)
        points = self.time_at(torch.arange(len(self.phi), device=t.device), number, t_end)
        # Where steps of no length share a time, the last of them is the one that moves.
        k = torch.searchsorted(-points, -t.contiguous(), right=True) - 1
        return torch.tensor(self.phi, dtype=torch.float64, device=t.device)[k.clamp_min(0)]

    def rates(
        self, process: Process, rates: Tensor, values: Tensor, x: Tensor, alpha: Tensor, phi: Tensor
    ) -> Tensor:
        """Return the solver's rates under the coefficients.

            rate       phi G(y)
            log_score  G(y) s(y)^(phi - 1), since G(y) is proportional to s(y)

        Args:
            process: the noise.
            rates: G, float64 [..., V].
            values: the prediction that G was made of, of kind `process.rates_read`.
            x: current tokens, int64 [...].
            alpha: their noise level, broadcast to [...].
            phi: their coefficients, like alpha.
        """
        factor = per_position(phi, x, rates)
        if self.apply == "rate":
            return APPLY["rate"](rates, factor)
        ratios = process.convert(values, x, alpha, process.rates_read, "log_score")
        return rates * APPLY["log_score"](ratios, factor - 1.0)

    def ratios(self, score: Tensor, x: Tensor, phi: Tensor) -> Tensor:
        """Return the ratios s [..., V] under the coefficients, for solvers that read ratios.

        All ratios times one number are the same law, so that "rate" spares the current token's.
        """
        factor = per_position(phi, x, score)
        if self.apply == "rate":
            # At the current token a product with 1, which changes nothing.
            factor = factor.expand_as(score).scatter(-1, x.unsqueeze(-1), 1.0)
        return APPLY[self.apply](score, factor)


NOT_LEARNED = LearnedSteps()
"""No learned numbers: the solver itself."""

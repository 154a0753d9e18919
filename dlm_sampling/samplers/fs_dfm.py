"""Take few steps of flow matching with a network that is given the length of its step: FS-DFM.

    p = network(x_t, t, dt),  A = int kappa' / (1 - kappa) = ln((1 - kappa_t) / (1 - kappa_s)),
    s = t - dt
    jump with probability 1 - exp(-A (1 - p(x))), to y ~ p(y) / (1 - p(x)),  y != x
    the last step draws x ~ p

kappa = alpha(t).  The rate is integrated over the step, and the network is trained to predict what
many small steps would do with that interval.  A network that takes no dt is asked for its posterior
at t, which is held over the step.  Karimi Monsefi et al. 2025, "FS-DFM: Fast and Accurate Long Text
Generation with Few-Step Diffusion Language Models", arXiv:2509.20624.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dlm_sampling.processes.flow import shortcut_law
from dlm_sampling.samplers.parts.grid_move import Interval, MaskMove
from dlm_sampling.samplers.parts.revising_grid import RevisingGrid
from dlm_sampling.samplers.registry import register
from dlm_sampling.schedules import grid_time
from dlm_sampling.types import Canvas, Clock, Predict, Prediction, PredictionKind, Process


@dataclass(frozen=True)
class FSDFM(RevisingGrid):
    """Replace each token by one of the network's law with the probability of the whole step.

    The network gets t, which runs from 1 to 0, and dt = t - s > 0; the last step goes to 0.

    Fields:
        schedule: see `RevisingGrid`, kappa = alpha(t).
        noise_removal: see `RevisingGrid`; "sample" is the released rule.
        step_sizes: length of every step, above 0 and with sum 1, in order from noise to data;
            replaces `steps`.  None: all equal.

    NFE: steps; on masks the number of steps that reveal something.
    """

    step_sizes: Sequence[float] | None = None

    paper = "Karimi Monsefi et al. 2025, arXiv:2509.20624"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.step_sizes is None:
            return
        sizes = tuple(float(size) for size in self.step_sizes)
        if not sizes or min(sizes) <= 0.0 or abs(sum(sizes) - 1.0) > 1e-6:
            raise ValueError(
                f"step_sizes={list(sizes)}: must be above 0 and add up to 1; try [0.5, 0.25, 0.25]."
            )
        object.__setattr__(self, "step_sizes", sizes)

    def schedule_length(self, steps: int) -> int:
        """Return one loop step per step size."""
        return steps if self.step_sizes is None else len(self.step_sizes)

    def planned(self, clock: Clock) -> Tensor:
        """Return the steps of the block, int64 [B]."""
        if self.step_sizes is None:
            return clock.steps
        return torch.full_like(clock.steps, len(self.step_sizes))

    def last(self, clock: Clock) -> Tensor:
        """Return the step that ends at 0."""
        return clock.step >= self.planned(clock) - 1

    def interval(self, clock: Clock) -> Interval:
        """Return the step that each row takes."""
        planned = self.planned(clock)
        t, s = (clock.at(self.time(clock.step + k, planned), 0.0) for k in (0, 1))
        return Interval(t, s, clock.step.double() / planned.double())

    def time(self, step: Tensor, planned: Tensor) -> Tensor:
        """Return the time before step `step`, float64 [B]."""
        if self.step_sizes is None:
            return grid_time(step, planned, 0.0)
        sizes = torch.tensor(self.step_sizes, dtype=torch.float64, device=step.device)
        taken = torch.cat((sizes.new_zeros(1), sizes.cumsum(0)))
        return (1.0 - taken / taken[-1])[step.minimum(planned)]

    def reads(self, process: Process) -> PredictionKind:
        """Return the law of the clean token given all of x_t."""
        return "posterior"

    def ask(self, predict: Predict, canvas: Canvas, interval: Interval, last: Tensor) -> Prediction:
        """Return the prediction for the whole step."""
        return predict(canvas.tokens, interval.t, dt=interval.t - interval.s)

    def mask_move(self, interval: Interval) -> MaskMove:
        """Return (kappa_s - kappa_t) / (1 - kappa_t) at a mask; tokens stay."""
        kappa, later = self.schedule.alpha(interval.t), self.schedule.alpha(interval.s)
        return MaskMove((later - kappa) / (1.0 - kappa), torch.zeros_like(kappa))

    def next_law(self, process: Process, values: Tensor, x: Tensor, interval: Interval) -> Tensor:
        """Return the law of x_s given x_t, [..., V]: `flow.shortcut_law`."""
        kappa, later = self.schedule.alpha(interval.t), self.schedule.alpha(interval.s)
        return shortcut_law(values, x, kappa, later)


register("fs-dfm", FSDFM)

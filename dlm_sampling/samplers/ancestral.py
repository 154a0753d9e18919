"""Draw from the reverse law with the prediction in place of the clean token: ancestral sampling.

    q(x_s = v | x_t = m) = (alpha_s - alpha_t) / (1 - alpha_t) * p0(v),   v != m
    q(x_s = m | x_t = m) = (1 - alpha_s) / (1 - alpha_t);   written tokens stay.

on masks, and under uniform noise over S symbols, r = alpha_t / alpha_s,

    q(x_s = v | x_t = u) ~ (r 1[v = u] + (1 - r) / S) (alpha_s p0(v) + (1 - alpha_s) / S)

Sahoo et al. 2024, "Simple and Effective Masked Diffusion Language Models", arXiv:2406.07524, eq. 6.
Uniform noise: Schiff et al. 2024, arXiv:2412.10193 (UDLM); Sahoo et al. 2025, arXiv:2506.10892
(Duo).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dlm_sampling.ops import any_or_assume
from dlm_sampling.processes import Uniform
from dlm_sampling.samplers.parts.grid import GridSampler
from dlm_sampling.samplers.parts.kept_laws import merge_draws
from dlm_sampling.samplers.parts.table_step import write_draws
from dlm_sampling.samplers.parts.uniform_mixture import reverse_by_mixture
from dlm_sampling.samplers.registry import register
from dlm_sampling.types import (
    Canvas,
    Predict,
    Prediction,
    PredictionKind,
    Process,
    RandomSource,
    Step,
)


@dataclass(frozen=True)
class Ancestral(GridSampler):
    """Reveal each masked position independently with the probability of the reverse process.

    The Bernoulli choice comes first and tokens are drawn only where it succeeds: the same law as
    the joint categorical over tokens and mask, without its loss of small probabilities to rounding.
    A step that reveals nothing needs no forward pass.

    Fields:
        schedule, t_end: see `GridSampler`.
        noise_removal: see `GridSampler`; "argmax" is the released rule.

    NFE: number of steps that reveal something, at most min(steps + 1, tokens).
    """

    paper = "Sahoo et al. 2024, arXiv:2406.07524"

    def reveal_prob(self, t: Tensor, s: Tensor) -> Tensor:
        """Return (alpha_s - alpha_t) / (1 - alpha_t), float64 like t."""
        alpha_t, alpha_s = self.schedule.alpha(t), self.schedule.alpha(s)
        return (alpha_s - alpha_t) / (1.0 - alpha_t)

    def reads(self, process: Process) -> PredictionKind:
        """Return the kind of prediction that the reverse law takes."""
        return process.reads

    def next_law(self, process: Process, values: Tensor, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """Return the law of x_s given x_t under any noise, [..., V]: `process.reverse`."""
        return process.reverse(values, x, *self.levels(t, s))

    def move(
        self,
        canvas: Canvas,
        t: Tensor,
        s: Tensor,
        last: Tensor,
        predict: Predict,
        prediction: Prediction,
        rng: RandomSource,
    ) -> Step:
        """Move to x_s without a mask; under uniform noise without the table of q where possible."""
        process = predict.process
        if not (isinstance(process, Uniform) and prediction.direct):
            return super().move(canvas, t, s, last, predict, prediction, rng)
        alpha_t, alpha_s = self.levels(t, s)
        ending = canvas.editable & last.unsqueeze(1)
        moving = canvas.editable & ~ending
        mixed = prediction.mixed(moving)
        tabled = torch.zeros_like(moving) if mixed is None else moving & mixed.unsqueeze(1)
        draw = reverse_by_mixture(
            prediction,
            canvas.tokens,
            moving & ~tabled,
            alpha_t,
            alpha_s,
            predict.vocab_size,
            rng,
        )
        if mixed is not None and any_or_assume(mixed):
            guided = self.by_table(process, prediction, t, s, tabled, rng)
            draw = merge_draws(tabled, guided, draw)
        if any_or_assume(last):
            final = self.remove_noise(process, prediction, ending, rng, alpha_t)
            draw = merge_draws(ending, final, draw)
        return write_draws(canvas, draw, canvas.editable, last)


register("ancestral", Ancestral)

"""Write the steps of solvers that draw every position of a block from a table.

    x_s,i ~ q(. | x_t)   independently, q made by the solver from the prediction at x_t

Under noise without a mask nothing says which tokens are noise, so every position of the block is
drawn in every step and stays unknown until the last one.  Under masking what is a mask is unknown.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dlm_sampling.processes import Absorbing, Uniform
from dlm_sampling.processes.tables import one_hot
from dlm_sampling.samplers.parts.checks import NoiseRemoval
from dlm_sampling.types import (
    Canvas,
    Draw,
    Prediction,
    Process,
    RandomSource,
    Site,
    Step,
)

Rule = Callable[[Site], Tensor]


def process_of(canvas: Canvas) -> Process:
    """Return masking if the canvas has a mask, else uniform noise."""
    return Uniform() if canvas.mask_token_id is None else Absorbing(canvas.mask_token_id)


def where_unknown(canvas: Canvas, law: Tensor) -> Tensor:
    """Return `law` at the positions to be written, the token itself elsewhere; [B, L, V]."""
    return law.where(canvas.eligible.unsqueeze(-1), one_hot(canvas.tokens, law))


def write_draws(canvas: Canvas, draw: Draw, where: Tensor, last: Tensor) -> Step:
    """Write the draws at `where` (bool [B, L]); rows of `last` (bool [B]) have no noise left."""
    tokens = torch.where(where, draw.token, canvas.tokens)
    noisy = canvas.editable & ~last.unsqueeze(1)
    if canvas.mask_token_id is not None:
        noisy = canvas.editable & (tokens == canvas.mask_token_id)
    return Step(
        tokens=tokens,
        unknown=torch.where(canvas.editable, noisy, canvas.unknown),
        logprob=draw.logprob.masked_fill(~where, 0.0),
        draw=draw,
    )


def draw_clean(
    process: Process,
    prediction: Prediction,
    where: Tensor,
    rng: RandomSource,
    alpha: Tensor,
    noise_removal: NoiseRemoval,
) -> Draw:
    """Draw clean tokens from their posterior, the last step: `process.reverse` to alpha = 1.

    Args:
        process: the noise.
        prediction: at the canvas.
        where: bool [B, L].
        rng: random numbers of the step.
        alpha: level of the canvas, float64 [B].
        noise_removal: "sample", or "argmax" of the posterior.
    """

    def posterior(site: Site) -> Tensor:
        level = alpha[site.row]
        return process.reverse(site.p, site.x, level, torch.ones_like(level))

    greedy = torch.ones_like(alpha, dtype=torch.bool) if noise_removal == "argmax" else None
    masks = process.mask_token_id is not None
    return prediction.draw_by(
        posterior, where, rng, alpha=alpha, reads=process.reads, greedy=greedy, own_law=masks
    )

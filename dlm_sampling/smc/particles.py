"""Run several particles per row, weigh them after every step, and resample: sequential Monte Carlo.

    log w += log G_k;  where the effective sample size falls below threshold K, the row's particles
    are drawn anew by their weights, with all that belongs to them, and log w becomes its mean

Weights are carried where nothing is resampled.  With them comes an unbiased estimate of the
normaliser Z = E[prod_k G_k], and rows of particles whose weighted law tends to the target's as K
grows.  Del Moral, Doucet and Jasra 2006.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dlm_sampling.caches import AnyPolicy
from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.engine.checks import check_canvases
from dlm_sampling.engine.request import BlockRequest, Request
from dlm_sampling.guidance.base import Guidance
from dlm_sampling.smc.driver import (
    Groups,
    ParticleDriver,
    Particles,
    check_groups,
    particle_run,
    repeated,
)
from dlm_sampling.smc.targets import Target
from dlm_sampling.types import Sampler, TokenLaw


def sample_particles(
    denoiser: Denoiser,
    sampler: Sampler[Any],
    tokens: Tensor,
    editable: Tensor,
    target: Target,
    *,
    particles: int,
    seeds: Sequence[int],
    attention_mask: Tensor | None = None,
    steps: int | None = None,
    block_length: int | None = None,
    align_blocks: bool = False,
    law: TokenLaw | None = None,
    guidance_scale: float = 0.0,
    guidance: Guidance | None = None,
    cache: str | AnyPolicy = "auto",
    threshold: float = 0.5,
    every: int = 1,
    return_trajectory: bool = False,
) -> Particles:
    """Sample a target with particles; a driver around the loop, for any sampler with planned steps.

    Particle k of a row has the random numbers of seed `row_seeds(seed, K)[k]`, whatever it descends
    from, so that rows do not depend on their batch.  Where nothing is resampled, the particles are
    the rows of a plain run with these seeds.

    Args:
        denoiser: the model; for `TiltedTarget` one whose laws are not normalised.
        sampler: the proposal.
        tokens: int64 [G, L], as in `sample`.
        editable: bool [G, L].
        target: weighs the particles; see `smc.targets`.
        particles: K, per row.
        seeds: one per row.
        attention_mask: bool [G, L], False at padding, or None.
        steps: see `sample`.
        block_length: see `sample`.
        align_blocks: see `sample`.
        law: token law of the proposal, without which weights would not be those of the target;
            default the model's own, also for samplers that decode at temperature 0.
        guidance_scale: classifier-free guidance of the proposal.
        guidance: an object of `dlm_sampling.guidance` that steers the proposal, of K rows for each
            row; `TwistedTarget` weighs by what it changed, the other targets take it as the law.
        threshold: share of K below which the effective size leads to resampling, in [0, 1]; 0
            never resamples, 1 always where weights differ.
        every: steps between two looks at the effective size.
        cache: see `sample`; keys and values follow their particles.
        return_trajectory: keep all events, from which the path of every particle can be read.

    Raises:
        ValueError: an argument is out of range, or the sampler sets its own pace, so that particles
            of a row would not take their steps together.
    """
    check_groups(particles, threshold, every)
    request = Request(
        sampler,
        TokenLaw() if law is None else law,
        BlockRequest(block_length, steps, align=align_blocks),
        guidance_scale=guidance_scale,
        cache=cache,
        reads_ahead=type(target).__name__ if target.looks_ahead else None,
        guidance=guidance,
        return_trajectory=return_trajectory,
    )
    rows = check_canvases(denoiser, tokens, editable, attention_mask, seeds)
    slots = repeated(rows, particles)
    with torch.no_grad():
        run = particle_run(denoiser, request, slots)
        target.check(denoiser, request)
        groups = Groups(particles, rows.seeds, threshold, every)
        return ParticleDriver(run, slots, target, groups, kept=return_trajectory).finish()

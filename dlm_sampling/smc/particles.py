"""Run several particles per row, weigh them after every step, and resample: sequential Monte Carlo.

    log w += log G_k;  where the effective sample size falls below threshold K, the row's particles
    are drawn anew by their weights, with all that belongs to them, and log w becomes its mean

Weights are carried where nothing is resampled.  With them comes an unbiased estimate of the
normaliser Z = E[prod_k G_k], and rows of particles whose weighted law tends to the target's as K
grows.  Del Moral, Doucet and Jasra 2006.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dlm_sampling import ops
from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.engine.checks import check_canvases
from dlm_sampling.engine.output import Listeners, SampleOutput
from dlm_sampling.engine.request import BlockRequest, Canvases, Request
from dlm_sampling.engine.run import Moved, Run
from dlm_sampling.engine.sample import plan_request
from dlm_sampling.engine.state import RunState
from dlm_sampling.engine.stepwise import Stepwise
from dlm_sampling.errors import check_real, check_whole
from dlm_sampling.prediction.predictor import Predictor
from dlm_sampling.samplers.contract import check_sampler
from dlm_sampling.smc.resampling import effective_size, group_uniform, normalised, systematic
from dlm_sampling.smc.targets import Target, Weighing
from dlm_sampling.types import Sampler, TokenLaw
from dlm_sampling.types.rows import select_rows


@dataclass(frozen=True)
class Particles:
    """Hold the particles of G rows.

    Fields:
        tokens: int64 [G, K, L], finished rows.
        log_weights: float64 [G, K], normalised: their exponentials sum to one in each row.
        log_normalizer: float64 [G], log of the unbiased estimate of Z.
        ancestors: int64 [T, G, K], the particle that each one descends from, after each step.
        effective: float64 [T, G], effective sample size after each step, before resampling.
        nfe: int64 [G, K], forward passes in the slot of each particle.
        seeds: one seed per row.
    """

    tokens: Tensor
    log_weights: Tensor
    log_normalizer: Tensor
    ancestors: Tensor
    effective: Tensor
    nfe: Tensor
    seeds: tuple[int, ...]

    def draw(self) -> Tensor:
        """Return one row of each group drawn by the weights and the row's seed, int64 [G, L]."""
        steps = len(self.ancestors) + 1
        uniform = group_uniform(self.seeds, steps, self.tokens.device, sub=1)
        edges = self.log_weights.exp().cumsum(1)
        chosen = torch.searchsorted(edges / edges[:, -1:], uniform.unsqueeze(1))
        chosen = chosen.clamp(max=edges.shape[1] - 1)[:, 0]
        return self.tokens[torch.arange(len(chosen)), chosen]

    def lineage(self, step: int = 0) -> Tensor:
        """Return the particle after `step` steps that each final one descends from, [G, K]."""
        found = torch.arange(self.tokens.shape[1]).expand(len(self.tokens), -1)
        for ancestors in reversed(self.ancestors[step:]):
            found = ancestors.gather(1, found)
        return found


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
    law: TokenLaw | None = None,
    guidance_scale: float = 0.0,
    threshold: float = 0.5,
    every: int = 1,
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
        law: token law of the proposal, without which weights would not be those of the target;
            default the model's own, also for samplers that decode at temperature 0.
        guidance_scale: classifier-free guidance of the proposal.
        threshold: share of K below which the effective size leads to resampling, in [0, 1]; 0
            never resamples, 1 always where weights differ.
        every: steps between two looks at the effective size.

    Raises:
        ValueError: an argument is out of range, or the sampler sets its own pace, so that particles
            of a row would not take their steps together.
    """
    check_whole("particles", particles)
    check_whole("every", every)
    check_real("threshold", threshold)
    if particles < 1:
        raise ValueError(f"particles={particles}: must be at least 1; try 16.")
    if every < 1:
        raise ValueError(f"every={every}: must be at least 1.")
    if not 0.0 <= threshold <= 1.0:
        raise ValueError(f"threshold={threshold}: must be in [0, 1]; try 0.5, 0 never resamples.")
    check_sampler(sampler)
    request = Request(
        sampler,
        TokenLaw() if law is None else law,
        BlockRequest(block_length, steps),
        guidance_scale=guidance_scale,
        cache="auto",
    )
    rows = check_canvases(denoiser, tokens, editable, attention_mask, seeds)
    many = repeated(rows, particles)
    request, plan = plan_request(denoiser, request, many)
    with torch.no_grad():
        run = Run.of(denoiser, request, many, plan)
        if run.adaptive:
            raise ValueError(
                f"sampler: {type(sampler).__name__} sets its own pace, and the particles of a row "
                "must take their steps together; use one with planned steps, such as llada-random."
            )
        # A row that is written early goes on to the end of its schedule, without passes.
        run = replace(run, whole_schedule=True)
        driver = _Driver(run, run.begin(many), target, particles, rows.seeds, threshold, every)
        driver.retire(run.plan.number == 0, torch.zeros_like(driver.ended))
        while len(driver.state):
            driver.advance()
        return driver.particles()


def repeated(rows: Canvases, n: int) -> Canvases:
    """Return the canvases with each row n times, adjacent, each with a seed of its own."""
    seeds = tuple(seed for row in rows.seeds for seed in ops.row_seeds(row, n))
    return Canvases(
        rows.tokens.repeat_interleave(n, 0),
        rows.editable.repeat_interleave(n, 0),
        rows.attention.repeat_interleave(n, 0),
        seeds,
        rows.may_stop.repeat_interleave(n, 0),
    )


class _Driver(Stepwise):
    """Drive the loop, and weigh and resample after every step."""

    def __init__(
        self,
        run: Run,
        state: RunState,
        target: Target,
        count: int,
        seeds: tuple[int, ...],
        threshold: float,
        every: int,
    ) -> None:
        slots, device = len(state), state.tokens.device
        super().__init__(
            run, replace(state, lineage=torch.arange(slots, device=device)), Listeners()
        )
        self.target, self.count, self.seeds = target, count, seeds
        self.threshold, self.every = threshold, every
        self.memory = target.begin(slots, device)
        self.log_weights = torch.zeros(slots // count, count, dtype=torch.float64, device=device)
        self.ancestors: list[Tensor] = []
        self.effective: list[Tensor] = []

    def stepped(
        self, before: RunState, moved: Moved, state: RunState, predictor: Predictor
    ) -> RunState:
        """Weigh the particles of the active rows, and resample where their weights differ much."""
        slots = state.rows
        prediction = predictor.made
        if prediction is None:
            prediction = predictor.lazily(before.tokens, moved.canvas.unknown_fraction)
        weighing = Weighing(
            before.tokens, state.tokens, before.unknown & before.editable,
            before.unknown & ~state.unknown, moved.step.draw, prediction, before.rng,
        )  # fmt: skip
        log_g, memory = self.target.weigh(weighing, self.memory[slots])
        self.memory[slots] = memory
        self.log_weights.view(-1)[slots] += log_g
        groups = slots[:: self.count] // self.count
        size = effective_size(self.log_weights)
        every = torch.arange(self.count, device=slots.device).expand_as(self.log_weights).clone()
        chosen = torch.zeros(len(self.log_weights), dtype=torch.bool, device=slots.device)
        if (self.iteration + 1) % self.every == 0:
            chosen[groups] = size[groups] < self.threshold * self.count * (1.0 - 1e-12)
        if bool(chosen.any()):
            uniform = group_uniform(self.seeds, self.iteration, slots.device)
            drawn = systematic(self.log_weights, uniform)
            every = torch.where(chosen.unsqueeze(1), drawn, every)
            mean = self.log_weights.logsumexp(1, keepdim=True) - math.log(self.count)
            self.log_weights = torch.where(chosen.unsqueeze(1), mean, self.log_weights)
            state = self.resampled(state, groups, every)
        self.ancestors.append(every)
        self.effective.append(size)
        return state

    def resampled(self, state: RunState, groups: Tensor, ancestors: Tensor) -> RunState:
        """Return the state in which each slot goes on from its ancestor, with its own numbers.

        Args:
            state: of the active slots, whole groups in order.
            groups: int64 [a], the active groups.
            ancestors: int64 [G, K], particles of the same group.
        """
        first = torch.arange(len(groups), device=groups.device).unsqueeze(1) * self.count
        index = (first + ancestors[groups]).flatten()
        self.memory[state.rows] = self.memory[state.rows[index]]
        return replace(select_rows(state, index), rows=state.rows, rng=state.rng)

    def particles(self) -> Particles:
        """Return the result, with the last factor of the target in the weights."""
        output: SampleOutput = self.output()
        shape = self.log_weights.shape
        last = self.target.end(output.tokens, self.memory).view(shape)
        total = self.log_weights + last
        log_z = total.logsumexp(1) - math.log(self.count)
        passes = output.nfe.view(shape)
        none = torch.zeros(0, *shape, dtype=torch.int64, device=last.device)
        return Particles(
            tokens=output.tokens.view(*shape, -1),
            log_weights=normalised(total).log(),
            log_normalizer=log_z,
            ancestors=torch.stack(self.ancestors) if self.ancestors else none,
            effective=torch.stack(self.effective) if self.effective else none[..., 0].double(),
            nfe=passes,
            seeds=self.seeds,
        )

"""Resample a row by particles again and again, around the path that it has: particle Gibbs.

A sweep is a run of K particles of which the first takes the retained path, whatever the weights
say; the others are drawn anew, and go on from any particle, the first included, by the weights.
Then one of the K ends is drawn by its weight, and its path is retained.  The sweep leaves the
target invariant for every K >= 2, so that the chain of rows has the target's law in the end, where
the rows of one run of K particles have it only as K grows.

A path is the sequence of its random numbers: step k of a path is taken again with the key of the
slot that took it, which gives the same step, weight and state.

Andrieu, Doucet and Holenstein 2010, "Particle Markov chain Monte Carlo Methods"; on masked
diffusion, arXiv:2507.08390.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dlm_sampling import ops
from dlm_sampling.caches import AnyPolicy
from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.engine.checks import check_canvases
from dlm_sampling.engine.request import BlockRequest, Canvases, Request
from dlm_sampling.engine.run import Run
from dlm_sampling.engine.state import RunState
from dlm_sampling.errors import check_whole
from dlm_sampling.guidance.base import Guidance
from dlm_sampling.ops.philox import Rng, Stream
from dlm_sampling.smc.driver import (
    Groups,
    ParticleDriver,
    Particles,
    check_groups,
    particle_run,
    repeated,
    with_seeds,
)
from dlm_sampling.smc.resampling import multinomial
from dlm_sampling.smc.targets import Target
from dlm_sampling.types import Sampler, TokenLaw
from dlm_sampling.types.values import ints


@dataclass(frozen=True)
class GibbsOutput:
    """Hold the chain of each of G rows.

    Fields:
        tokens: int64 [G, L], the rows after the last sweep.
        sweeps: int64 [N + 1, G, L], the rows after each sweep; the first are drawn from one run of
            particles.
        log_normalizer: float64 [N + 1, G]; unbiased for the first run only.
        nfe: int64 [G], forward passes of all particles and sweeps.
    """

    tokens: Tensor
    sweeps: Tensor
    log_normalizer: Tensor
    nfe: Tensor


def sample_gibbs(
    denoiser: Denoiser,
    sampler: Sampler[Any],
    tokens: Tensor,
    editable: Tensor,
    target: Target,
    *,
    particles: int,
    sweeps: int,
    seeds: Sequence[int],
    attention_mask: Tensor | None = None,
    steps: int | None = None,
    block_length: int | None = None,
    align_blocks: bool = False,
    law: TokenLaw | None = None,
    guidance: Guidance | None = None,
    cache: str | AnyPolicy = "auto",
    threshold: float = 0.5,
    every: int = 1,
) -> GibbsOutput:
    """Sample a target by particle Gibbs.

    Without sweeps a row is that of `sample_particles(...).draw()`, with multinomial resampling.
    One particle keeps its path: the run without a target.

    Args:
        denoiser: the model.
        sampler: the proposal, with planned steps.
        tokens: int64 [G, L], as in `sample`.
        editable: bool [G, L].
        target: weighs the particles.
        particles: K, per row.
        sweeps: N, sweeps after the first run.
        seeds: one per row.
        attention_mask: bool [G, L], False at padding, or None.
        steps: see `sample`.
        block_length: see `sample`.
        align_blocks: see `sample`.
        law: token law of the proposal; default the model's own.
        guidance: of the proposal, see `sample_particles`.
        cache: see `sample`; keys and values follow their particles.
        threshold: share of K below which the effective size leads to resampling, in [0, 1].
        every: steps between two looks at the effective size.

    Raises:
        ValueError: an argument is out of range, or the sampler sets its own pace.

    NFE: K (N + 1) runs.
    """
    check_whole("sweeps", sweeps)
    if sweeps < 0:
        raise ValueError(f"sweeps={sweeps}: must be at least 0; try 10.")
    check_groups(particles, threshold, every)
    request = Request(
        sampler,
        TokenLaw() if law is None else law,
        BlockRequest(block_length, steps, align=align_blocks),
        cache=cache,
        reads_ahead=type(target).__name__ if target.looks_ahead else None,
        guidance=guidance,
    )
    rows = check_canvases(denoiser, tokens, editable, attention_mask, seeds)
    count, path = len(rows.seeds), None
    kept: list[Tensor] = []
    normalizers: list[Tensor] = []
    nfe = torch.zeros(count, dtype=torch.int64, device=denoiser.device)
    with torch.no_grad():
        for sweep in range(sweeps + 1):
            own = rows.seeds
            if sweep:
                own = tuple(ops.row_seeds(seed, sweeps + 1)[sweep] for seed in rows.seeds)
            slots = repeated(replace(rows, seeds=own), particles)
            if path is not None:
                first = path.root.new_tensor(slots.seeds).view(-1, particles)
                first[:, 0] = path.root
                slots = with_seeds(rows, particles, ints(first.flatten()))
            run = particle_run(denoiser, request, slots)
            target.check(denoiser, request)
            groups = Groups(particles, own, threshold, every)
            driver = _Sweep(run, slots, target, groups, path)
            out = driver.finish()
            picked = out.pick()
            path = driver.path_of(out, picked)
            kept.append(out.tokens[torch.arange(count, device=picked.device), picked])
            normalizers.append(out.log_normalizer)
            nfe = nfe + out.nfe.sum(1)
    return GibbsOutput(kept[-1], torch.stack(kept), torch.stack(normalizers), nfe)


class _Path(NamedTuple):
    """Hold the keys of the random numbers of a path.

    root: int64 [G], of the first canvas.  keys: int64 [T, G], of each step.
    """

    root: Tensor
    keys: Tensor


class _Sweep(ParticleDriver):
    """Run particles of which the first of each group takes a given path."""

    def __init__(
        self, run: Run, slots: Canvases, target: Target, groups: Groups, path: _Path | None
    ) -> None:
        super().__init__(run, slots, target, groups)
        self.path = path
        self.root: Tensor = self.state.rng.keys
        self.used: list[Tensor] = []

    def advance(self) -> None:
        """Take one step, the first slots with the keys of the path."""
        keys = self.root.clone()
        if self.path is not None and self.iteration < len(self.path.keys):
            keys[:: self.count] = self.path.keys[self.iteration]
        self.used.append(keys.view(-1, self.count))
        rng = replace(self.state.rng, keys=keys[self.state.rows])
        self.state = replace(self.state, rng=rng)
        super().advance()

    def drawn(self, before: RunState) -> Tensor:
        """Return independent ancestors, int64 [G, K]; the first slot keeps its path."""
        rng = Rng(
            self.root, torch.full_like(self.root, self.iteration), torch.zeros_like(self.root)
        )
        uniform = rng.uniform(Stream.RESAMPLE, self.root, sub=2).view(-1, self.count)
        chosen = multinomial(self.log_weights, uniform)
        if self.path is not None:
            chosen[:, 0] = 0
        return chosen

    def path_of(self, out: Particles, picked: Tensor) -> _Path:
        """Return the path of one particle of each group, `picked` int64 [G]."""
        at, keys = picked, list[Tensor]()
        for ancestors, used in zip(reversed(out.ancestors), reversed(self.used), strict=True):
            at = ancestors.gather(1, at.unsqueeze(1))[:, 0]
            keys.append(used.gather(1, at.unsqueeze(1))[:, 0])
        root = self.root.view(-1, self.count).gather(1, at.unsqueeze(1))[:, 0]
        none = self.root.new_zeros(0, len(root))
        return _Path(root, torch.stack(keys[::-1]) if keys else none)

"""Drive several slots per row through the loop: weigh them after each step, and resample.

A group is the K slots of one row.  How a step is weighed and from which slots its group goes on are
two methods, which SVDD and particle Gibbs replace.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from dlm_sampling import ops
from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.engine.output import Listeners, SampleOutput
from dlm_sampling.engine.request import Canvases, Request
from dlm_sampling.engine.run import Moved, Run
from dlm_sampling.engine.sample import plan_request
from dlm_sampling.engine.state import RunState
from dlm_sampling.engine.stepwise import Stepwise
from dlm_sampling.engine.trajectory import Trajectory
from dlm_sampling.errors import check_real, check_whole
from dlm_sampling.prediction.forced import ForcedPredictor, Record
from dlm_sampling.prediction.lazy import LazyPrediction
from dlm_sampling.prediction.predictor import Predictor
from dlm_sampling.prediction.unguided import Answered, OwnPrediction
from dlm_sampling.samplers.contract import check_sampler
from dlm_sampling.smc.resampling import effective_size, group_uniform, normalised, systematic
from dlm_sampling.smc.targets import Target, Weighing
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
        trajectory: the steps of the G K slots, if requested; `steps` and `canvases` of a slot are
            those of the particle that ended there, and `paths()` has them all.
    """

    tokens: Tensor
    log_weights: Tensor
    log_normalizer: Tensor
    ancestors: Tensor
    effective: Tensor
    nfe: Tensor
    seeds: tuple[int, ...]
    trajectory: Trajectory | None = None

    def pick(self) -> Tensor:
        """Return a particle of each group drawn by the weights and the row's seed, int64 [G]."""
        steps = len(self.ancestors) + 1
        uniform = group_uniform(self.seeds, steps, self.tokens.device, sub=1)
        edges = self.log_weights.exp().cumsum(1)
        chosen = torch.searchsorted(edges / edges[:, -1:], uniform.unsqueeze(1))
        return chosen.clamp(max=edges.shape[1] - 1)[:, 0]

    def draw(self) -> Tensor:
        """Return one row of each group drawn by the weights and the row's seed, int64 [G, L]."""
        chosen = self.pick()
        return self.tokens[torch.arange(len(chosen)), chosen]

    def lineage(self, step: int = 0) -> Tensor:
        """Return the particle after `step` steps that each final one descends from, [G, K]."""
        found = torch.arange(self.tokens.shape[1]).expand(len(self.tokens), -1)
        for ancestors in reversed(self.ancestors[step:]):
            found = ancestors.gather(1, found)
        return found


def check_groups(particles: int, threshold: float, every: int) -> None:
    """Check the settings of groups.

    Raises:
        ValueError: one is out of range.
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


def particle_run(denoiser: Denoiser, request: Request, slots: Canvases) -> Run:
    """Return the run of all slots.

    Raises:
        ValueError: the sampler sets its own pace.
    """
    check_sampler(request.sampler)
    request, plan = plan_request(denoiser, request, slots)
    run = Run.of(denoiser, request, slots, plan)
    if run.adaptive:
        raise ValueError(
            f"sampler: {type(request.sampler).__name__} sets its own pace, and the particles of a "
            "row must take their steps together; use one with planned steps, such as llada-random."
        )
    # A row that is written early goes on to the end of its schedule, without passes.
    return replace(run, whole_schedule=True)


def repeated(rows: Canvases, n: int) -> Canvases:
    """Return the canvases with each row n times, adjacent, each with a seed of its own."""
    seeds = tuple(seed for row in rows.seeds for seed in ops.row_seeds(row, n))
    return with_seeds(rows, n, seeds)


def with_seeds(rows: Canvases, n: int, seeds: Sequence[int]) -> Canvases:
    """Return the canvases with each row n times, adjacent, with the seeds of all n rows."""
    return Canvases(
        rows.tokens.repeat_interleave(n, 0),
        rows.editable.repeat_interleave(n, 0),
        rows.attention.repeat_interleave(n, 0),
        tuple(seeds),
        rows.may_stop.repeat_interleave(n, 0),
    )


@dataclass(frozen=True)
class Groups:
    """Say how slots make groups, and when a group is resampled.

    Fields:
        count: K, slots per group.
        seeds: one seed per group.
        threshold: share of K below which the effective size leads to resampling.
        every: steps between two looks at the effective size.
    """

    count: int
    seeds: tuple[int, ...]
    threshold: float = 0.5
    every: int = 1


class ParticleDriver(Stepwise):
    """Drive the loop, and weigh and resample after every step.

    Args:
        run: of all slots, from `particle_run`.
        slots: the canvases of the slots.
        target: weighs them.
        groups: the slots of each row.
        kept: whether a trajectory is kept.
    """

    def __init__(
        self, run: Run, slots: Canvases, target: Target, groups: Groups, *, kept: bool = False
    ) -> None:
        state = run.begin(slots)
        trajectory = Trajectory(
            initial=state.tokens,
            editable=slots.editable,
            attention_mask=slots.attention,
            sampler=type(run.sampler).__name__,
            masked=run.process.mask_token_id is not None,
            unknown=state.unknown.clone(),
            request=run.request,
            seeds=slots.seeds,
        )
        super().__init__(run, state, Listeners((), trajectory if kept else None))
        count, device = groups.count, state.tokens.device
        self.target, self.groups, self.count = target, groups, count
        self.masked = run.process.mask_token_id is not None
        self.memory = target.begin(len(state), device)
        self.log_weights = torch.zeros(
            len(state) // count, count, dtype=torch.float64, device=device
        )
        self.ancestors: list[Tensor] = []
        self.effective: list[Tensor] = []

    def finish(self) -> Particles:
        """Take all steps, and return the particles."""
        self.retire(self.run.plan.number == 0, torch.zeros_like(self.ended))
        while len(self.state):
            self.advance()
        return self.particles()

    def stepped(
        self, before: RunState, moved: Moved, state: RunState, predictor: Predictor
    ) -> RunState:
        """Weigh the particles of the active rows, and resample where their weights differ much."""
        slots = state.rows
        self.log_weights.view(-1)[slots] += self.weighed(before, moved, state, predictor)
        active = torch.zeros(len(self.log_weights), dtype=torch.bool, device=slots.device)
        active[slots[:: self.count] // self.count] = True
        self.effective.append(effective_size(self.log_weights))
        every = torch.arange(self.count, device=slots.device).expand_as(self.log_weights).clone()
        chosen = active & self.due()
        if bool(chosen.any()):
            every = torch.where(chosen.unsqueeze(1), self.drawn(before), every)
            mean = self.log_weights.logsumexp(1, keepdim=True) - math.log(self.count)
            self.log_weights = torch.where(chosen.unsqueeze(1), mean, self.log_weights)
        self.ancestors.append(every)
        return self.resampled(state, every)

    def weighed(
        self, before: RunState, moved: Moved, state: RunState, predictor: Predictor
    ) -> Tensor:
        """Return log G of the active slots, float64 [A], and keep the target's memory."""
        prediction = predictor.made
        if prediction is None:
            prediction = predictor.lazily(before.tokens, moved.canvas.unknown_fraction)
        own = OwnPrediction(predictor, prediction)
        weighing = Weighing(
            before.tokens, state.tokens, before.unknown & before.editable,
            before.unknown & ~state.unknown, moved.step, prediction, own, before.rng,
            None if self.masked else partial(self.retaken, before, moved, predictor),
        )  # fmt: skip
        log_g, memory = self.target.weigh(weighing, self.memory[state.rows])
        self.memory[state.rows] = memory
        return log_g

    def retaken(
        self, before: RunState, moved: Moved, predictor: Predictor, prediction: LazyPrediction
    ) -> Tensor:
        """Return the log-probability of the step's draws under a prediction, float64 [A]."""
        run, canvas = self.run, moved.canvas
        none = torch.zeros_like(canvas.editable)
        logprob = torch.zeros(none.shape, dtype=torch.float64, device=none.device)
        record = Record(before.tokens, moved.state.tokens, canvas.editable, none, logprob, none)
        asked = ForcedPredictor(
            Answered(predictor.model, predictor.rows, answer=prediction), record
        )
        run.sampler.step(before.sampler, canvas, run.clock(before), asked, before.rng)
        return record.logprob.sum(1)

    def due(self) -> Tensor:
        """Return the groups to resample after this step, bool [G]."""
        small = self.effective[-1] < self.groups.threshold * self.count * (1.0 - 1e-12)
        return small & ((self.iteration + 1) % self.groups.every == 0)

    def drawn(self, before: RunState) -> Tensor:
        """Return the slot that each slot goes on from, int64 [G, K]."""
        uniform = group_uniform(self.groups.seeds, self.iteration, self.log_weights.device)
        return systematic(self.log_weights, uniform)

    def resampled(self, state: RunState, ancestors: Tensor) -> RunState:
        """Return the state in which each slot goes on from its ancestor, with its own numbers.

        Args:
            state: of the active slots, whole groups in order.
            ancestors: int64 [G, K], particles of the same group.
        """
        slots = state.rows
        own = slots[:: self.count] // self.count
        first = torch.arange(len(own), device=slots.device).unsqueeze(1) * self.count
        index = (first + ancestors[own]).flatten()
        self.memory[slots] = self.memory[slots[index]]
        parents = slots[index]
        return replace(select_rows(state, index), rows=slots, rng=state.rng, lineage=parents)

    def particles(self) -> Particles:
        """Return the result, with the last factor of the target in the weights."""
        output: SampleOutput = self.output()
        shape = self.log_weights.shape
        last = self.target.end(output.tokens, self.memory).view(shape)
        total = self.log_weights + last
        none = torch.zeros(0, *shape, dtype=torch.int64, device=last.device)
        return Particles(
            tokens=output.tokens.view(*shape, -1),
            log_weights=normalised(total).log(),
            log_normalizer=total.logsumexp(1) - math.log(self.count),
            ancestors=torch.stack(self.ancestors) if self.ancestors else none,
            effective=torch.stack(self.effective) if self.effective else none[..., 0].double(),
            nfe=output.nfe.view(shape),
            seeds=self.groups.seeds,
            trajectory=output.trajectory,
        )

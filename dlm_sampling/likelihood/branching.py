"""Define `branch`, which goes on from a recorded step of a run with new random numbers.

Rows that share their first steps differ by what was drawn later alone: a tree of rollouts, whose
groups give an advantage to single steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.engine.checks import check_denoiser, listed_seeds
from dlm_sampling.engine.output import Listeners
from dlm_sampling.engine.request import Canvases
from dlm_sampling.engine.run import Run
from dlm_sampling.engine.sample import plan_request
from dlm_sampling.engine.start import taken_as_it_is
from dlm_sampling.engine.state import RunState
from dlm_sampling.engine.stepwise import Stepwise
from dlm_sampling.errors import check_whole, named
from dlm_sampling.likelihood.retake import Taking, enter, refusal
from dlm_sampling.likelihood.rollout import Rollout
from dlm_sampling.likelihood.tables import Recorder, Steps, Writes, in_order
from dlm_sampling.types.values import ints


@torch.no_grad()
def branch(denoiser: Denoiser, rollout: Rollout, step: int, *, seeds: Sequence[int]) -> Rollout:
    """Keep the first steps of each row, and draw the others anew.

    With `rollout.select` a row is repeated, so that several branches leave it:
    `branch(policy, rollout.select(torch.tensor([0] * 8)), 5, seeds=range(8))`.  With the row's own
    seed the run is repeated.  Rows are written to the end of their canvas.

    Args:
        denoiser: the model that draws, such as the one that drew the rollout.
        rollout: the rows.
        step: number of the first loop step that is drawn anew.
        seeds: one per row.

    Returns:
        The whole runs, as `generate(..., return_rollout=True)` gives them; `nfe` counts the new
        passes.  Where a state goes from step to step, the first steps are taken again to find it,
        at the cost of their passes.  Samplers whose positions are random and whose steps are taken
        again (theta-trapezoidal, uniformization, glauber) cannot be replayed then: a row has two
        seeds.

    Raises:
        TypeError: step or a seed is no whole number, or rollout is another object.
        ValueError: `seeds` has another length, a row has no such step, no record tells the steps
            of the sampler, or the run had an approximate cache.
    """
    check_denoiser(denoiser)
    check_whole("step", step)
    if not isinstance(rollout, Rollout):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(
            f"rollout is {named(rollout)}: must be a Rollout, the `rollout` of "
            "generate(..., return_rollout=True)."
        )
    seeds = listed_seeds(seeds)
    if len(seeds) != len(rollout):
        raise ValueError(f"seeds has {len(seeds)} entries for {len(rollout)} rows: give one each.")
    header, device = rollout.header, denoiser.device
    if header.cache is not None:
        raise ValueError(f"the run was sampled with {header.cache}: branch runs without a cache.")
    if rollout.request.sampler.unscored:
        raise refusal(header)
    rollout = rollout.to(device)
    driver, state = _begun(denoiser, rollout, rollout.seeds)
    taking = Taking(driver, header, denoiser.process.name in rollout.request.sampler.scored_on)
    moving = state.sampler is not None or denoiser.carries
    unknown = state.unknown.clone()
    for event in rollout.events():
        if event.iteration == step:
            break
        if moving:
            state = enter(driver, state, event, event.rows, unknown[event.rows])
            state, _ = taking.take(state, event)
        unknown[event.rows] = event.unknown
    else:
        raise _no_step(rollout, step)
    if len(event.rows) < len(rollout):
        raise _no_step(rollout, step)
    state = enter(driver, state, event, event.rows, unknown)
    driver, fresh = _begun(denoiser, rollout, seeds)
    state = replace(state, rng=fresh.rng.with_step(torch.full_like(event.rows, step)))
    recorder = Recorder(rollout.editable, masked=rollout.masked, unknown=unknown)
    loop = Stepwise(driver, state, Listeners((recorder,), None))
    loop.iteration = step
    while len(loop.state):
        loop.advance()
    output = loop.output()
    steps, writes = recorder.tables()
    kept, known = rollout.steps.iteration < step, rollout.writes.iteration < step
    before = Steps(*(column[kept] for column in rollout.steps))
    written = Writes(*(column[known] for column in rollout.writes))
    return replace(
        rollout,
        rows=rollout.rows._replace(tokens=output.tokens, nfe=output.nfe),
        seeds=tuple(seeds),
        steps=Steps(*in_order([torch.cat(pair) for pair in zip(before, steps, strict=True)])),
        writes=Writes(*in_order([torch.cat(pair) for pair in zip(written, writes, strict=True)])),
        model="",
    )


def _begun(denoiser: Denoiser, rollout: Rollout, seeds: Sequence[int]) -> tuple[Run, RunState]:
    """Return a run of the same settings with other seeds, and its state before the first step."""
    canvases = Canvases(
        tokens=rollout.initial,
        editable=rollout.editable,
        attention=rollout.attention_mask,
        seeds=tuple(seeds),
        may_stop=torch.zeros(len(rollout), dtype=torch.bool),
    ).to(denoiser.device)
    asked = replace(
        rollout.request,
        cache="none",
        cache_audit=None,
        cuda_graph=False,
        start=taken_as_it_is(rollout.request.start),
    )
    request, plan = plan_request(denoiser, asked, canvases)
    driver = Run.of(denoiser, request, canvases, plan)
    return driver, driver.begin(canvases)


def _no_step(rollout: Rollout, step: int) -> ValueError:
    """Make the error for a step that some row does not have."""
    number = torch.bincount(rollout.steps.row.long(), minlength=len(rollout))
    row = int(number.argmin())
    return ValueError(
        f"step={step}: row {row} has steps 0 to {ints(number)[row] - 1} only; select the rows that "
        "have it."
    )

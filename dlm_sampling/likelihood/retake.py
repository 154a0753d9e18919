"""Take the steps of a run again with their recorded tokens, and score each in its own law.

    log p(x_s | x_t) = sum over drawn i of log q_i(x_s,i)

q_i comes from the sampler's own step: a table of noise, a mean of several predictions, a second
stage.  The state that a network carries, and that of the sampler, follow from the record too.  NFE
is that of the run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.engine.request import Canvases, Request
from dlm_sampling.engine.run import Run
from dlm_sampling.engine.sample import plan_request
from dlm_sampling.engine.state import RunState
from dlm_sampling.engine.trajectory import StepEvent, Trajectory
from dlm_sampling.prediction.forced import ForcedPredictor, Record
from dlm_sampling.types import Drawn, Sampler
from dlm_sampling.types.rows import select_rows


@dataclass(frozen=True)
class Retaken:
    """Hold the scores of one step.

    Fields:
        event: the step.
        logprob: [A, L], log-probability of every token drawn in it, else 0; differentiable.
        counted: bool [A], rows in which the step drew a token.
        nfe: int64 [B], forward passes of every row so far.
    """

    event: StepEvent
    logprob: Tensor
    counted: Tensor
    nfe: Tensor


def needs_retaking(denoiser: Denoiser, run: Trajectory) -> bool:
    """Return whether the laws of the tokens do not follow from a canvas alone.

    So it is without a mask, for a network that carries a state or is told the length of a step, and
    for a sampler on masks whose steps say so.
    """
    on_masks = run.request is not None and "absorbing" in run.request.sampler.scored_on
    return on_masks or not run.masked or denoiser.carries or denoiser.step_conditioned


def check_retakable(denoiser: Denoiser, run: Trajectory, request: Request) -> None:
    """Check that the steps of a run follow from its record.

    Raises:
        ValueError: the sampler's steps cannot be taken again.
    """
    sampler: Sampler[Any] = request.sampler
    kind = denoiser.process.name
    remedy = (
        "Sample with 'llada', 'ancestral' or another sampler that draws once per step and chooses "
        "its positions without the model."
    )
    if denoiser.carries and kind not in sampler.scored_on and sampler.passes_per_step > 1:
        raise ValueError(
            f"run was sampled by {run.sampler}, which drew with several passes per step, each of "
            f"which moves the state that this denoiser ({denoiser.family}) carries: the "
            f"log-probabilities cannot be recomputed. {remedy}"
        )
    by_canvas = run.masked and (denoiser.carries or denoiser.step_conditioned)
    if kind not in sampler.scored_on and not by_canvas:
        raise refusal(run.sampler, remedy)


def refusal(sampler: str, remedy: str) -> ValueError:
    """Return the error for a sampler whose tokens cannot be scored."""
    return ValueError(
        f"run was sampled by {sampler}, which drew a token from a law that does not follow from "
        "the record: its steps revise what they drew, or choose positions by what the model says, "
        f"and the log-probability cannot be recomputed. {remedy}"
    )


def retake(
    denoiser: Denoiser, run: Trajectory, events: Iterable[StepEvent], request: Request
) -> Iterator[Retaken]:
    """Yield the scores of every step, in order.

    Args:
        denoiser: the model.
        run: rows and settings of the run; its own events are not read.
        events: the steps, in order.
        request: the settings of the run, with the law to score.

    Raises:
        ValueError: a recorded token was not drawn when its step was taken again.
    """
    device = denoiser.device
    attention = run.attention_mask
    canvases = Canvases(
        tokens=run.initial,
        editable=run.editable,
        attention=torch.ones_like(run.editable) if attention is None else attention.bool(),
        seeds=run.seeds,
        may_stop=torch.zeros(len(run.initial), dtype=torch.bool),
    ).to(device)
    request, plan = plan_request(denoiser, request, canvases)
    with torch.no_grad():
        driver = Run.of(denoiser, request, canvases, plan)
        state = driver.begin(canvases)
    drawn_when_known = denoiser.process.name in request.sampler.scored_on
    unknown = state.unknown.clone()
    for event in events:
        rows = event.rows.to(device)
        state = _enter(driver, state, event, rows, unknown[rows])
        window = state.window.editable
        known = ~event.unknown.to(device) if run.masked else torch.ones_like(window)
        known = known & window & (drawn_when_known | event.written.to(device))
        how = torch.zeros_like(event.tokens) if event.drawn is None else event.drawn
        how, tokens = how.to(device), event.tokens.to(device)
        record = Record(
            before=state.tokens,
            tokens=tokens,
            known=known,
            from_law=known & (how == Drawn.FROM_LAW) & run.masked,
            logprob=torch.zeros(tokens.shape, dtype=torch.float32, device=device),
            scored=known & (how == Drawn.ARGMAX) & run.masked,
        )
        predictor = driver.predictor(state, not bool(state.attention.all()))
        clock = driver.clock(state)
        following, _ = driver.sampler.step(
            state.sampler, driver.canvas(state), clock, ForcedPredictor(predictor, record),
            state.rng,
        )  # fmt: skip
        changed = state.unknown if run.masked else tokens != state.tokens
        missing = changed & known & ~record.scored & (how != Drawn.ARGMAX)
        if bool(missing.any()):
            raise refusal(run.sampler, "Sample with 'llada' or 'ancestral'.")
        unknown[rows] = event.unknown.to(device)
        state = replace(state, sampler=following, carry=predictor.carries)
        logprob = torch.where(known, record.logprob, 0.0)
        new = (event.written.to(device) & known) | (logprob != 0) if run.masked else window
        yield Retaken(event, logprob, new.any(1), driver.model.counts.nfe)


def _enter(
    driver: Run, state: RunState, event: StepEvent, rows: Tensor, unknown: Tensor
) -> RunState:
    """Return the state before a step: rows that ended leave, and the canvas is the recorded one."""
    state = select_rows(state, torch.searchsorted(state.rows, rows))
    device = rows.device
    block, step = event.block.to(device), event.step.to(device)
    return replace(
        state,
        tokens=event.before.to(device),
        unknown=unknown,
        block=block,
        step=step,
        window=driver.window(rows, block, state.editable),
        rng=state.rng.with_step(torch.full_like(rows, event.iteration)),
        carry=tuple(carry.reset(step == 0) for carry in state.carry),
    )

"""Take the steps of a run again with their recorded tokens, and score each in its own law.

    log p(x_s | x_t) = sum over drawn i of log q_i(x_s,i)

q_i comes from the sampler's own step: a table of noise, a mean of several predictions, a second
stage.  The state that a network carries, and that of the sampler, follow from the record too.  NFE
is that of the run, or that of a window of steps where no state goes from step to step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
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
from dlm_sampling.likelihood.records import remedy, why_not
from dlm_sampling.prediction.forced import ForcedPredictor, Record
from dlm_sampling.types import Drawn, Sampler
from dlm_sampling.types.rows import select_rows


@dataclass(frozen=True)
class Retaken:
    """Hold the scores of one step.

    Fields:
        event: the step.
        written: bool [A, L], positions that it wrote, in the rows that are scored.
        logprob: [A, L], log-probability of every token drawn in it, else 0; differentiable.
        counted: bool [A], rows in which the step drew a token.
        nfe: int64 [B], forward passes of every row so far.
    """

    event: StepEvent
    written: Tensor
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
    if denoiser.carries and kind not in sampler.scored_on and sampler.passes_per_step > 1:
        raise ValueError(
            f"run was sampled by {run.sampler}, which drew with several passes per step, each of "
            f"which moves the state that this denoiser ({denoiser.family}) carries: the "
            f"log-probabilities cannot be recomputed. {remedy(run)}"
        )
    by_canvas = run.masked and (denoiser.carries or denoiser.step_conditioned)
    if kind not in sampler.scored_on and not by_canvas:
        raise refusal(run)


def refusal(run: Trajectory) -> ValueError:
    """Return the error for a run whose tokens cannot be scored."""
    return ValueError(
        f"run was sampled by {run.sampler}, whose log-probabilities cannot be recomputed: "
        f"{why_not(run)}. {remedy(run)}"
    )


def retake(
    denoiser: Denoiser,
    run: Trajectory,
    events: Iterable[StepEvent],
    request: Request,
    window: Mapping[int, Tensor] | None = None,
) -> Iterator[Retaken]:
    """Yield the scores of every step, in order.

    With a window no later step is taken.  Earlier ones are taken where a state goes from step to
    step, since the scores may depend on what it keeps of the model.

    Args:
        denoiser: the model.
        run: rows and settings of the run; its own events are not read.
        events: the steps, in order.
        request: the settings of the run, with the law to score.
        window: for each iteration, which of its rows are scored, bool [A]; None: all.

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
    taking = Taking(driver, run, denoiser.process.name in request.sampler.scored_on)
    stateless = state.sampler is None and not denoiser.carries
    last = max((at for at, rows in (window or {}).items() if bool(rows.any())), default=-1)
    unknown = state.unknown.clone()
    for event in events:
        if window is not None and event.iteration > last:
            return
        rows, left = event.rows.to(device), event.unknown.to(device)
        were, unknown[rows] = unknown[rows], left
        inside = None if window is None else window[event.iteration].to(device)
        if inside is not None and stateless:
            if bool(inside.any()):
                part = select_rows(event, inside.to(event.rows.device))
                here = enter(driver, state, part, rows[inside], were[inside])
                yield taking.take(here, part)[1]
            continue
        state = enter(driver, state, event, rows, were)
        state, found = taking.take(state, event)
        if inside is not None:
            found = replace(
                found,
                written=found.written & inside.unsqueeze(1),
                logprob=torch.where(inside.unsqueeze(1), found.logprob, 0.0),
                counted=found.counted & inside,
            )
        yield found


@dataclass(frozen=True)
class Taking:
    """Take single steps again.

    Fields:
        driver: the run.
        run: its rows and settings.
        drawn_when_known: whether a step draws every position that it may write.
    """

    driver: Run
    run: Trajectory
    drawn_when_known: bool

    def take(self, state: RunState, event: StepEvent) -> tuple[RunState, Retaken]:
        """Return the state after a step, and the step's scores.

        Raises:
            ValueError: a recorded token was not drawn.
        """
        driver, masked, device = self.driver, self.run.masked, state.rows.device
        window, written = state.window.editable, event.written.to(device)
        known = ~event.unknown.to(device) if masked else torch.ones_like(window)
        known = known & window & (self.drawn_when_known | written)
        how = torch.zeros_like(event.tokens) if event.drawn is None else event.drawn
        how, tokens = how.to(device), event.tokens.to(device)
        record = Record(
            before=state.tokens,
            tokens=tokens,
            known=known,
            from_law=known & (how == Drawn.FROM_LAW) & masked,
            logprob=torch.zeros(tokens.shape, dtype=torch.float32, device=device),
            scored=known & (how == Drawn.ARGMAX) & masked,
        )
        predictor = driver.predictor(state, not bool(state.attention.all()))
        clock = driver.clock(state)
        following, _ = driver.sampler.step(
            state.sampler, driver.canvas(state), clock, ForcedPredictor(predictor, record),
            state.rng,
        )  # fmt: skip
        changed = state.unknown if masked else tokens != state.tokens
        missing = changed & known & ~record.scored & (how != Drawn.ARGMAX)
        if bool(missing.any()):
            raise refusal(self.run)
        logprob = torch.where(known, record.logprob, 0.0)
        new = (written & known) | (logprob != 0) if masked else window
        retaken = Retaken(event, written, logprob, new.any(1), driver.model.counts.nfe)
        return replace(state, sampler=following, carry=predictor.carries), retaken


def enter(
    driver: Run, state: RunState, event: StepEvent, rows: Tensor, unknown: Tensor
) -> RunState:
    """Return the state before a step: rows that ended leave, and the canvas is the recorded one."""
    state = select_rows(state, torch.searchsorted(state.rows, rows))
    device = rows.device
    block, step = event.block.to(device), event.step.to(device)
    last = None if state.last is None or event.last is None else event.last.to(device)
    return replace(
        state,
        tokens=event.before.to(device),
        unknown=unknown,
        block=block,
        last=last,
        step=step,
        window=driver.windows.at(rows, block, last, state.editable),
        rng=state.rng.with_step(torch.full_like(rows, event.iteration)),
        carry=tuple(carry.reset(step == 0) for carry in state.carry),
    )

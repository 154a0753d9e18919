"""Define `replay`, which scores the tokens of a recorded run under any denoiser.

    log p(tokens | steps) = sum_k sum over i written in step k of log p(x_i | z_k)

z_k is the canvas before step k.  With `shrink` s, each group of s consecutive steps is scored in
one pass, on the canvas before the first, where all tokens of the group are unknown.  With
s >= steps, all tokens are scored in one pass, as if independent.

Wang et al. 2025, "Revolutionizing Reinforcement Learning Framework for Diffusion Large Language
Models", arXiv:2509.06949 (TraceRL).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.engine.request import RunOutput
from dlm_sampling.engine.trajectory import Trajectory
from dlm_sampling.errors import SamplingWarning
from dlm_sampling.likelihood.rollout import (
    Rollout,
    argmax_of,
    attention_of,
    trajectory_of,
)
from dlm_sampling.likelihood.scoring import Scorer, Views, check_batch_size
from dlm_sampling.types import TokenLaw


@dataclass(frozen=True)
class Replay:
    """Hold the result of `replay` on the denoiser's device; differentiable if requested.

    Fields:
        logprob: [B, L], log-probability of each token in the step that wrote it last, 0 at
            positions that were never written.
        step_logprob: [B, S], sum over all tokens that the row's k-th scored step wrote, including
            tokens that a later step replaced; 0 after the row's last step.
        nfe: int64 [B], forward passes of this replay.
    """

    logprob: Tensor
    step_logprob: Tensor
    nfe: Tensor

    @property
    def total(self) -> Tensor:
        """Return the log-probability of all written tokens, given their positions, [B]."""
        return self.step_logprob.sum(1)


def replay(
    denoiser: Denoiser,
    run: RunOutput | Trajectory | Rollout,
    *,
    shrink: int = 1,
    law: TokenLaw | None = None,
    grad: bool | None = None,
    batch_size: int | None = None,
) -> Replay:
    """Recompute the log-probability of every token of a run.

    The denoiser that sampled the run gives the log-probabilities of `sample` up to rounding.  To
    match, pass as `law` the law that was sampled; None matches temperature 1 without filters and
    guidance.  Tokens that the run took as the argmax whatever the temperature, such as those of a
    last step, have log-probability 0 and no gradient.  The choice of positions is not scored.

    A run with an approximate cache was drawn from the law of that cache: the log-probabilities here
    are those without it, and a warning says so.

    A run with a token that came from another law than the model's at the canvas before the step
    is refused: a mean of several predictions, a stage or sweep over several canvases, or a step of
    noise without a mask.

    Args:
        denoiser: the model that scores the tokens; it need not be the one that sampled them.
        run: the output of `generate` or `sample` with return_trajectory=True, its trajectory, or a
            `Rollout`, which unmask-only samplers allow.
        shrink: s >= 1, consecutive writing steps of a row that are scored in one pass.
        law: None for the model's own law, or the law that was sampled.  Suppressed ids of the
            denoiser and its mask id are added.
        grad: whether to record gradients; None follows the caller's grad mode.
        batch_size: canvases per forward pass; None takes the k-th steps of all rows together.

    Returns:
        A `Replay`; float64 for float64 logits, else float32.  NFE ceil(S / s) of a row with S
        steps that wrote something, less those whose tokens are all an argmax.  With gradients, the
        activations of all passes stay in memory: split the batch (`Rollout.select`), or use the
        network's gradient checkpointing.

    Raises:
        ValueError: shrink or batch_size < 1, there is no trajectory, a `Rollout` is given with
            a model that has no mask or is time-conditioned, the denoiser carries a state, or a
            token came from another law.
    """
    if shrink < 1:
        raise ValueError(f"shrink={shrink}: must be at least 1; 1 scores every step on its own.")
    check_batch_size(batch_size)
    scorer = Scorer(denoiser, law)
    if isinstance(run, Rollout):
        views, shape = run.views(_mask_of(denoiser), shrink, denoiser.device), run.tokens.shape
        _warn_of_cache(run.cache)
    else:
        trajectory = run if isinstance(run, Trajectory) else trajectory_of(run)
        _warn_of_cache(trajectory.cache)
        views, shape = _views(denoiser, trajectory, shrink), trajectory.initial.shape
    with torch.set_grad_enabled(torch.is_grad_enabled() if grad is None else grad):
        return _gather(scorer, views, shape, batch_size)


def _warn_of_cache(cache: str | None) -> None:
    """Warn that a run was sampled from the law of an approximate cache."""
    if cache is not None:
        warnings.warn(
            f"the run was sampled with {cache}, which is approximate: its tokens come from another "
            "law than the one that is scored here, so that ratios of the two are not 1 under the "
            "same weights. Sample with cache='auto' or 'none', or keep the run's own "
            "log-probabilities as those of the behaviour.",
            SamplingWarning,
            stacklevel=3,
        )


def _gather(
    scorer: Scorer, steps: Iterator[Views], shape: torch.Size, batch_size: int | None
) -> Replay:
    """Score all steps, and collect the log-probabilities by token and by step."""
    device = scorer.denoiser.device
    nfe, number = (torch.zeros(shape[0], dtype=torch.int64, device=device) for _ in range(2))
    place = torch.full(
        shape, -1, dtype=torch.int64, device=device
    )  # index of each token in the list
    found, owners = [torch.zeros(0, dtype=torch.float32, device=device)], [nfe.new_zeros(2, 0)]
    count = 0
    for step in steps:
        for views in step.split(batch_size):
            row, column = views.where.nonzero(as_tuple=True)
            row = views.rows[row]
            place[row, column] = torch.arange(count, count + len(row), device=device)
            count += len(row)
            owners.append(torch.stack([row, number[row]]))
            found.append(scorer(views))
            number[views.rows] += 1
            nfe[views.rows] += views.scored.any(1)
    listed, (row, step_of) = torch.cat(found), torch.cat(owners, 1)
    width = int(number.max()) if number.numel() else 0
    sums = listed.new_zeros(shape[0] * width).index_add(0, row * width + step_of, listed)
    padded = torch.cat([listed, listed.new_zeros(1)])  # place -1 reads the zero
    return Replay(padded[place], sums.view(shape[0], width), nfe)


def _mask_of(denoiser: Denoiser) -> int:
    """Return the mask id that stands for later tokens in the replay of a `Rollout`."""
    if denoiser.mask_token_id is None:
        raise ValueError(
            f"run is a Rollout, and this denoiser ({denoiser.family}) has no mask to put in place "
            "of later tokens: pass the output with its trajectory."
        )
    if denoiser.time_conditioned:
        raise ValueError(
            f"run is a Rollout, which does not tell the times, and this denoiser "
            f"({denoiser.family}) is conditioned on them: pass the output with its trajectory."
        )
    return denoiser.mask_token_id


@dataclass
class _StepGroup:
    """Hold the current group of steps of each row; all [B, ...]."""

    canvas: Tensor  # int64 [B, L], before the group's first step
    tokens: Tensor  # int64 [B, L], after its latest step
    written: Tensor  # bool [B, L]
    argmax: Tensor  # bool [B, L], those of them that were taken as the argmax
    steps: Tensor  # int64 [B], steps that wrote something
    horizon: Tensor  # int64 [B], first hidden column in its latest step
    time: Tensor  # float64 [B], time argument of its first step


def _views(denoiser: Denoiser, trajectory: Trajectory, shrink: int) -> Iterator[Views]:
    """Yield the canvases to score; a row's canvas comes when its group of steps is full."""
    device, masked = denoiser.device, denoiser.mask_token_id is not None
    initial, editable = trajectory.initial.to(device), trajectory.editable.to(device)
    attention, cropped = attention_of(trajectory).to(device), False
    steps = torch.zeros(len(initial), dtype=torch.int64, device=device)
    time = torch.full_like(steps, torch.nan, dtype=torch.float64)
    group = _StepGroup(
        initial.clone(), initial.clone(), torch.zeros_like(editable), torch.zeros_like(editable),
        steps, steps.clone(), time,
    )  # fmt: skip

    def close(full: Tensor) -> Views:
        rows = full.nonzero().squeeze(1)
        where, argmax = group.written[rows], group.argmax[rows]
        group.written[rows], group.steps[rows] = False, 0
        some = where.any(1)
        rows, where, argmax = rows[some], where[some], argmax[some]
        seen = group.horizon[rows] if cropped else None
        views = Views(rows, group.canvas[rows], group.tokens[rows], where, attention[rows], seen)
        return views._replace(time=_times(denoiser, group.time[rows]), argmax=argmax)

    for event in trajectory.events:
        rows, tokens = event.rows.to(device), event.tokens.to(device)
        argmax = argmax_of(trajectory, event).to(device)
        # On masks, positions still unknown after the step were masked again, not drawn.
        known = ~event.unknown.to(device) if masked else torch.ones_like(tokens, dtype=torch.bool)
        drawn = event.written.to(device) & known & editable[rows]
        writes = drawn.any(1)
        first = writes & (group.steps[rows] == 0)
        group.canvas[rows] = torch.where(
            first.unsqueeze(1), event.before.to(device), group.canvas[rows]
        )
        group.written[rows] = (group.written[rows] | drawn) & known
        group.argmax[rows] = torch.where(drawn, argmax, group.argmax[rows])
        group.tokens[rows] = tokens
        group.steps[rows] += writes
        if event.horizon is not None:
            cropped, group.horizon[rows] = True, event.horizon.to(device)
        if event.time is not None:
            group.time[rows] = torch.where(first, event.time.to(device), group.time[rows])
        yield close(group.steps >= shrink)
    yield close(group.steps > 0)


def _times(denoiser: Denoiser, time: Tensor) -> Tensor | None:
    """Return the time arguments for a time-conditioned model, else None.

    Raises:
        ValueError: the run did not record its times.
    """
    if not denoiser.time_conditioned:
        return None
    if bool(time.isnan().any()):
        raise ValueError(
            f"run does not tell the times of its steps, and this denoiser ({denoiser.family}) is "
            "conditioned on them: was it sampled with a denoiser that is not, or by parallel steps?"
        )
    return time

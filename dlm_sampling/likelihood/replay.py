"""`replay`: the log-probabilities of a recorded run under the denoiser given now.

    log p(tokens | steps) = sum_k sum over i written in step k of log p(x_i | z_k)

z_k is the canvas that step k saw.  With `shrink` s, s steps in a row count as one: their tokens are
scored on the canvas of the first, where all of them are unknown; s >= steps is the mean-field value
of one pass.

Wang et al. 2025, "Revolutionizing Reinforcement Learning Framework for Diffusion Large Language
Models", arXiv:2509.06949 (TraceRL).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.engine.request import RunOutput
from dlm_sampling.engine.trajectory import Trajectory
from dlm_sampling.likelihood.rollout import Rollout, attention_of, trajectory_of
from dlm_sampling.likelihood.scoring import Scorer, Views, check_batch_size
from dlm_sampling.types import TokenLaw


@dataclass(frozen=True)
class Replay:
    """What `replay` returns; tensors on the denoiser's device, with a graph if asked for.

    Fields:
        logprob: [B, L], log-probability of each token in the step that wrote it last, 0 where
            nothing was written.
        step_logprob: [B, S], sum over all tokens that the k-th scored step of a row wrote, tokens
            that a later step replaced included; 0 beyond the row's last.
        nfe: int64 [B], forward passes of this replay.
    """

    logprob: Tensor
    step_logprob: Tensor
    nfe: Tensor

    @property
    def total(self) -> Tensor:
        """Log-probability of all that the run wrote, given where, [B]."""
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

    For samplers that draw their tokens on the canvas of the step (all but those of several stages)
    the same denoiser gives what `sample` gave, up to rounding: under `law` the law that was
    sampled, under None what that was at temperature 1 without filters and guidance.  The choice of
    positions is not scored.  Under noise without a mask the score is that of the clean token that
    the model predicts, log p(x_0 = token | canvas), not that of the step's transition.

    Args:
        denoiser: on whose law the tokens are scored; the one that sampled them, or a later one.
        run: the output of `generate` or `sample` with return_trajectory=True, its trajectory, or a
            `Rollout`, which unmask-only samplers allow.
        shrink: s >= 1, consecutive writing steps of a row that are scored in one pass.
        law: None for the model's own law, or the law that was sampled.  Suppressed ids of the
            denoiser and its mask are added.
        grad: whether to leave a graph; None follows the caller's grad mode.
        batch_size: canvases per forward pass; None: all rows that have a k-th step together.

    Returns:
        A `Replay`; float64 for float64 logits, else float32.  NFE ceil(S / s) of a row with S
        steps that wrote something.  A graph keeps the activations of all these passes: go through a
        batch in parts (`Rollout.select`), or use the network's gradient checkpointing.

    Raises:
        ValueError: shrink or batch_size < 1, there is no trajectory, a `Rollout` comes with a model
            that has no mask or is told the time, or the denoiser carries a state.
    """
    if shrink < 1:
        raise ValueError(f"shrink={shrink}: must be at least 1; 1 scores every step on its own.")
    check_batch_size(batch_size)
    scorer = Scorer(denoiser, law)
    if isinstance(run, Rollout):
        views, shape = run.views(_mask_of(denoiser), shrink, denoiser.device), run.tokens.shape
    else:
        trajectory = run if isinstance(run, Trajectory) else trajectory_of(run)
        views, shape = _views(denoiser, trajectory, shrink), trajectory.initial.shape
    with torch.set_grad_enabled(torch.is_grad_enabled() if grad is None else grad):
        return _gather(scorer, views, shape, batch_size)


def _gather(
    scorer: Scorer, steps: Iterator[Views], shape: torch.Size, batch_size: int | None
) -> Replay:
    """Score all steps, and put each number where it belongs."""
    device = scorer.denoiser.device
    nfe = torch.zeros(shape[0], dtype=torch.int64, device=device)
    place = torch.full(shape, -1, dtype=torch.int64, device=device)  # of a token in the list
    found, owners = [torch.zeros(0, device=device)], [nfe.new_zeros(2, 0)]
    count = 0
    for step in steps:
        for views in step.split(batch_size):
            row, column = views.where.nonzero(as_tuple=True)
            row = views.rows[row]
            place[row, column] = torch.arange(count, count + len(row), device=device)
            count += len(row)
            owners.append(torch.stack([row, nfe[row]]))
            found.append(scorer(views))
            nfe[views.rows] += 1
    listed, (row, step_of) = torch.cat(found), torch.cat(owners, 1)
    width = int(nfe.max()) if nfe.numel() else 0
    sums = listed.new_zeros(shape[0] * width).index_add(0, row * width + step_of, listed)
    padded = torch.cat([listed, listed.new_zeros(1)])  # place -1 reads the zero
    return Replay(padded[place], sums.view(shape[0], width), nfe)


def _mask_of(denoiser: Denoiser) -> int:
    """The mask that a `Rollout` is replayed with."""
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
class _Open:
    """The group of steps that each row is in; all [B, ...]."""

    canvas: Tensor  # int64 [B, L], before the group's first step
    tokens: Tensor  # int64 [B, L], after its latest
    written: Tensor  # bool [B, L]
    steps: Tensor  # int64 [B], steps that wrote something
    horizon: Tensor  # int64 [B], of its latest step
    time: Tensor  # float64 [B], of its first


def _views(denoiser: Denoiser, trajectory: Trajectory, shrink: int) -> Iterator[Views]:
    """The canvases that a replay looks at, as soon as a row's group of steps is full."""
    device, masked = denoiser.device, denoiser.mask_token_id is not None
    initial, editable = trajectory.initial.to(device), trajectory.editable.to(device)
    attention, cropped = attention_of(trajectory).to(device), False
    steps = torch.zeros(len(initial), dtype=torch.int64, device=device)
    time = torch.full_like(steps, torch.nan, dtype=torch.float64)
    group = _Open(
        initial.clone(), initial.clone(), torch.zeros_like(editable), steps, steps.clone(), time
    )

    def close(full: Tensor) -> Views:
        rows = full.nonzero().squeeze(1)
        where = group.written[rows]
        group.written[rows], group.steps[rows] = False, 0
        rows, where = rows[where.any(1)], where[where.any(1)]
        seen = group.horizon[rows] if cropped else None
        views = Views(rows, group.canvas[rows], group.tokens[rows], where, attention[rows], seen)
        return views._replace(time=_times(denoiser, group.time[rows]))

    for event in trajectory.events:
        rows, tokens = event.rows.to(device), event.tokens.to(device)
        # On masks only what the step left known was drawn; the rest of `written` was masked again.
        known = ~event.unknown.to(device) if masked else torch.ones_like(tokens, dtype=torch.bool)
        drawn = event.written.to(device) & known & editable[rows]
        writes = drawn.any(1)
        first = writes & (group.steps[rows] == 0)
        group.canvas[rows] = torch.where(
            first.unsqueeze(1), event.before.to(device), group.canvas[rows]
        )
        group.written[rows] = (group.written[rows] | drawn) & known
        group.tokens[rows] = tokens
        group.steps[rows] += writes
        if event.horizon is not None:
            cropped, group.horizon[rows] = True, event.horizon.to(device)
        if event.time is not None:
            group.time[rows] = torch.where(first, event.time.to(device), group.time[rows])
        yield close(group.steps >= shrink)
    yield close(group.steps > 0)


def _times(denoiser: Denoiser, time: Tensor) -> Tensor | None:
    """What a time-conditioned model was told."""
    if not denoiser.time_conditioned:
        return None
    if bool(time.isnan().any()):
        raise ValueError(
            f"run does not tell the times of its steps, and this denoiser ({denoiser.family}) is "
            "conditioned on them: was it sampled with a denoiser that is not, or by parallel steps?"
        )
    return time

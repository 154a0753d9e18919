"""Begin a run from a draft: what is kept of it, where the clock begins, and which sampler may."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.engine.checks import check_ids
from dlm_sampling.engine.request import Canvases
from dlm_sampling.engine.start import NO_TOKEN, Start
from dlm_sampling.types import Process, RandomSource, Sampler


def start_of(
    drafted: bool, t_start: float | None, renoise: bool, times: Sequence[float] | None
) -> Start | None:
    """Return the start of a run, or None without a draft; `times` alone say where it begins.

    Raises:
        TypeError, ValueError: an argument is out of range, or says something of no draft.
    """
    if drafted:
        first = times[0] if times and t_start is None and times[0] < 1.0 else t_start
        return Start(first, renoise if t_start is not None else False)
    for name, value in (("t_start", t_start), ("renoise", None if renoise is True else renoise)):
        if value is not None:
            raise ValueError(f"{name}={value}: belongs to a draft; give start=, or leave it out.")
    return None


def with_draft(denoiser: Denoiser, canvases: Canvases, draft: Tensor) -> Canvases:
    """Return canvases with a draft at the editable positions.

    Raises:
        ValueError: it has another shape, or a token outside of the vocabulary.
    """
    tokens, editable = canvases.tokens, canvases.editable
    if draft.shape != tokens.shape or draft.is_floating_point() or draft.dtype == torch.bool:
        raise ValueError(
            f"start is {draft.dtype} {tuple(draft.shape)}: must be token ids {tuple(tokens.shape)} "
            "like tokens."
        )
    draft = draft.to(tokens.device, torch.int64)
    check_ids(denoiser, draft, editable & (draft != NO_TOKEN))
    return replace(canvases, tokens=torch.where(editable, draft, tokens))


def grid_of(times: tuple[float, ...] | None, device: torch.device) -> Tensor | None:
    """Return a time grid as a tensor, float64 [N + 1]; None where there is none."""
    return None if times is None else torch.tensor(times, dtype=torch.float64, device=device)


def check_start(
    sampler: Sampler[Any], start: Start | None, times: tuple[float, ...] | None
) -> None:
    """Check that a sampler can begin where it is asked to.

    Raises:
        ValueError: it has no use for a draft, for its level or for times; the message names it.
    """
    name, use = type(sampler).__name__, sampler.clock_use
    if times is not None and use != "times":
        why = {
            "none": "follows no clock: it reads what is unknown",
            "begin": "chooses its times by itself",
            "fixed": "has times of its own",
        }[use]
        raise ValueError(
            f"times={list(times)}: {name} {why}; leave times out, or use 'ancestral', 'remdm-cap' "
            "or another solver on a grid."
        )
    if start is None:
        return
    if use == "fixed":
        raise ValueError(
            f"start: the clock of {name} always begins with noise, which would overwrite the "
            "draft; use 'ancestral', 'remdm-cap' or another sampler."
        )
    if start.t is None and use != "none":
        raise ValueError(
            f"start: {name} follows a clock, and nobody says how noisy the draft is; give "
            "t_start=0.5 to noise it to that level, and renoise=False to take it as it is."
        )


def started(
    process: Process,
    sampler: Sampler[Any],
    start: Start,
    tokens: Tensor,
    editable: Tensor,
    noise: Tensor,
    rng: RandomSource,
    denoiser: Denoiser,
) -> tuple[Tensor, Tensor]:
    """Return the canvas of a draft before the first step, and what is unknown in it; [B, L] each.

    Args:
        process: the noise of the canvas.
        sampler: its schedule says what level a time has.
        start: level of noise of the draft.
        tokens: int64 [B, L], the draft at editable positions; `NO_TOKEN` or the mask for noise.
        editable: bool [B, L].
        noise: int64 [B, L], the canvas of pure noise.
        rng: random numbers of the run.
        denoiser: its mask stands for noise in a draft.

    Raises:
        ValueError: nothing is unknown, and the sampler never changes a written token.
    """
    mask, blank = process.mask_token_id, tokens == NO_TOKEN
    if denoiser.mask_token_id is not None:
        blank = blank | (tokens == denoiser.mask_token_id)
    draft = tokens.masked_fill(tokens == NO_TOKEN, 0)
    if start.noises is not None:
        time = torch.tensor(start.noises, dtype=torch.float64)
        level = float(sampler.schedule.alpha(time))
        draft = process.noised(draft, level, rng, denoiser.vocab_size)
    canvas = torch.where(editable, torch.where(blank, noise, draft), tokens)
    if mask is None:
        return canvas, editable.clone()
    unknown = editable & (canvas == mask)
    if (
        start.noises is None
        and not sampler.revises
        and bool(editable.any())
        and not bool(unknown.any())
    ):
        raise ValueError(
            f"start: nothing of the draft is masked, and {type(sampler).__name__} never changes a "
            "written token; give t_start=0.5, or use a sampler that revises, such as 'remdm-cap'."
        )
    return canvas, unknown

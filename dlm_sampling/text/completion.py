"""Turns finished canvases into texts: cut at the end-of-text, decode, collect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor

from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.engine.sample import SampleOutput
from dlm_sampling.engine.trajectory import Trajectory
from dlm_sampling.errors import unknown_choice
from dlm_sampling.text.prompts import CanvasBatch

Eos = Literal["auto", "keep", "cut", "stop"]


@dataclass(frozen=True)
class GenerateOutput:
    """What `generate` returns; one row per prompt and returned sequence.

    Fields:
        sequences: int64 [B, L], left-padded prompt and completion; padding after an end-of-text
            that was cut.
        texts: the completions (for infilling the whole text), or None without a tokenizer.
        token_ids: the completions as ids (for infilling the whole row), cut like the texts.
        nfe: int64 [B], forward passes per row.
        steps: int64 [B], loop steps per row.
        seeds: one seed per row; `generate(..., seed=[seeds[i]])` repeats row i alone.
        logprobs: [B, L], log-probability of each written token under the law it was drawn from, 0
            at fixed positions.
        finish_reasons: "eos" or "length" per row.
        prompt_lengths: tokens of the prompt per row, without padding.
        trajectory: every step, if asked for.
    """

    sequences: Tensor
    texts: list[str] | None
    token_ids: list[list[int]]
    nfe: Tensor
    steps: Tensor
    seeds: list[int]
    logprobs: Tensor
    finish_reasons: list[str]
    prompt_lengths: list[int]
    trajectory: Trajectory | None


def endings(eos: Eos, batch: CanvasBatch, prompt_lengths: list[int]) -> list[str]:
    """keep, cut or stop, per row."""
    if eos not in ("auto", "keep", "cut", "stop"):
        raise unknown_choice("eos", eos, ("auto", "keep", "cut", "stop"))
    if eos != "auto":
        return [eos] * len(prompt_lengths)
    return [
        "keep" if fill or n == 0 else "stop"
        for fill, n in zip(batch.infill, prompt_lengths, strict=True)
    ]


def eos_ids(eos_token_id: int | Sequence[int] | None, denoiser: Denoiser) -> tuple[int, ...]:
    """Give the ids that end a text: the caller's, or the model's own."""
    if eos_token_id is None:
        own = () if denoiser.eos_token_id is None else (denoiser.eos_token_id,)
        return (*own, *denoiser.further_eos_ids)
    return (eos_token_id,) if isinstance(eos_token_id, int) else tuple(eos_token_id)


def finish(
    output: SampleOutput,
    batch: CanvasBatch,
    prompt_lengths: list[int],
    seeds: list[int],
    ending: list[str],
    stop_ids: tuple[int, ...],
    tokenizer: Any,
    denoiser: Denoiser,
) -> GenerateOutput:
    """Cut at the end-of-text, decode, and collect."""
    sequences, logprobs = output.tokens.clone(), output.logprob.clone()
    pad = next((i for i in (denoiser.pad_token_id, denoiser.eos_token_id) if i is not None), 0)
    token_ids: list[list[int]] = []
    reasons: list[str] = []
    for b, length in enumerate(prompt_lengths):
        first = int(batch.attention[b].long().argmax())
        begin = first if batch.infill[b] else first + length
        row = sequences[b, begin:]
        is_end = (
            torch.isin(row, torch.tensor(stop_ids, dtype=torch.int64)) & batch.editable[b, begin:]
        )
        found = is_end.nonzero()
        cut = ending[b] != "keep" and len(found) > 0
        end = int(found[0]) if cut else len(row)
        token_ids.append(cast("list[int]", row[:end].tolist()))
        reasons.append("eos" if cut else "length")
        if cut:
            row[end + 1 :] = pad
            logprobs[b, begin + end + 1 :] = 0.0
    texts = None
    if tokenizer is not None:
        texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in token_ids]
    return GenerateOutput(
        sequences,
        texts,
        token_ids,
        output.nfe,
        output.steps,
        seeds,
        logprobs,
        reasons,
        prompt_lengths,
        output.trajectory,
    )

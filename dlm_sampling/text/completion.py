"""Turn finished canvases into texts: cut at the end-of-text, and decode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.engine.request import SampleOutput
from dlm_sampling.engine.trajectory import Trajectory
from dlm_sampling.text.prompts import TextRows


@dataclass(frozen=True)
class GenerateOutput:
    """Hold the result of `generate`, one row per prompt and returned sequence.

    Fields:
        sequences: int64 [B, L], left-padded prompt and completion; padding after an end-of-text
            that was cut.
        texts: the completions (for infilling the whole text), or None without a tokenizer.
        token_ids: the completions as ids (for infilling the whole row), cut like the texts.
        nfe: int64 [B], forward passes per row.
        work: float64 [B], columns that those passes computed, in units of the row's whole canvas.
        steps: int64 [B], loop steps per row.
        seeds: one seed per row; `generate(..., seed=[seeds[i]])` repeats row i alone.
        logprobs: [B, L], log-probability of each written token under the law it was drawn from, 0
            at fixed positions.
        finish_reasons: "eos" or "length" per row.
        prompt_lengths: tokens of the prompt per row, without padding.
        trajectory: every step, if requested.
    """

    sequences: Tensor
    texts: list[str] | None
    token_ids: list[list[int]]
    nfe: Tensor
    work: Tensor
    steps: Tensor
    seeds: list[int]
    logprobs: Tensor
    finish_reasons: list[str]
    prompt_lengths: list[int]
    trajectory: Trajectory | None

    @property
    def tokens(self) -> Tensor:
        """Return `sequences`, under the name that `sample` uses."""
        return self.sequences


def eos_ids(eos_token_id: int | Sequence[int] | None, denoiser: Denoiser) -> tuple[int, ...]:
    """Return the ids that end a text: the caller's, or the model's own."""
    if eos_token_id is None:
        own = () if denoiser.eos_token_id is None else (denoiser.eos_token_id,)
        return (*own, *denoiser.further_eos_ids)
    return (eos_token_id,) if isinstance(eos_token_id, int) else tuple(eos_token_id)


def finish(
    output: SampleOutput,
    rows: TextRows,
    stop_ids: tuple[int, ...],
    tokenizer: Any,
    denoiser: Denoiser,
) -> GenerateOutput:
    """Cut finished canvases at the end-of-text, decode them, and collect the output.

    Args:
        output: the finished canvases.
        rows: the rows before the first step.
        stop_ids: ids that end a text.
        tokenizer: decodes, or None for no texts.
        denoiser: gives the padding.
    """
    sequences, logprobs = output.tokens.clone(), output.logprob.clone()
    pad = next((i for i in (denoiser.pad_token_id, denoiser.eos_token_id) if i is not None), 0)
    stops = torch.tensor(stop_ids, dtype=torch.int64)
    token_ids: list[list[int]] = []
    reasons: list[str] = []
    for b, (prompt, ending) in enumerate(zip(rows.prompts, rows.endings, strict=True)):
        first = int(rows.canvases.attention[b].long().argmax())
        begin = first if prompt.infill else first + len(prompt.ids)
        row = sequences[b, begin:]
        found = (torch.isin(row, stops) & rows.canvases.editable[b, begin:]).nonzero()
        cut = ending != "keep" and len(found) > 0
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
        output.work,
        output.steps,
        list(rows.canvases.seeds),
        logprobs,
        reasons,
        [len(prompt.ids) for prompt in rows.prompts],
        output.trajectory,
    )

"""Turn finished canvases into texts: cut where the text of a row ends, and decode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dlm_sampling.caches import CacheReport
from dlm_sampling.engine.output import SampleOutput
from dlm_sampling.engine.trajectory import Trajectory
from dlm_sampling.likelihood.rollout import Rollout
from dlm_sampling.text.arguments import RowSeed
from dlm_sampling.text.rows import TextRows
from dlm_sampling.types.values import ints


@dataclass(frozen=True)
class GenerateOutput:
    """Hold the result of `generate`, one row per prompt and returned sequence.

    Fields:
        sequences: int64 [B, L], left-padded prompt and completion; padding after an end-of-text
            that was cut, and after the token that completes a stop string.
        texts: the completions (for infilling the whole text), or None without a tokenizer; decoded
            behind their prompt, so that the decoded prompt and the text are the decoded whole.
        token_ids: the completions as ids (for infilling the whole row), cut like the texts; a token
            in which a stop string begins is left out whole.
        nfe: int64 [B], forward passes per row.
        work: float64 [B], columns that the row showed to those passes, in units of its whole
            canvas.  A batch may compute more: every row up to the last column shown by any.
        shared: float64 [B], of that work what another row of the batch showed in the row's place:
            texts of a prompt have one first canvas.
        steps: int64 [B], loop steps per row.
        seeds: one seed per row.  A list of them gives every row its own, so that
            `generate(..., seed=out.seeds)` repeats the run and `seed=[out.seeds[i]]` row i alone; a
            number without a list begins a new run, of other texts.
        logprobs: [B, L], log-probability of each written token under the law it was drawn from, 0
            at fixed positions.  A token behind the end of the text keeps its own, although
            `sequences` has padding there: the model saw it when it wrote the text.  On noise
            without masks, where tokens change in many steps, all are 0: `rollout.total` has the sum
            over all steps, and `replay(...).position_logprob` those of every position.
        finish_reasons: "eos" (an end-of-text), "stop" (a stop string) or "length" per row.
        prompt_lengths: tokens of the prompt per row, without padding.
        trajectory: every step, if requested.
        cache: which cache the run had, and what its audits found; None without one.
        rollout: the changes of every step, if requested.
        forced: int64 [B], tokens that `max_nfe` had written beyond the sampler's own; None without.
    """

    sequences: Tensor
    texts: list[str] | None
    token_ids: list[list[int]]
    nfe: Tensor
    work: Tensor
    shared: Tensor
    steps: Tensor
    seeds: list[int]
    logprobs: Tensor
    finish_reasons: list[str]
    prompt_lengths: list[int]
    trajectory: Trajectory | None
    cache: CacheReport | None = None
    rollout: Rollout | None = None
    forced: Tensor | None = None

    @property
    def tokens(self) -> Tensor:
        """Return `sequences`, under the name that `sample` uses."""
        return self.sequences


def finish(output: SampleOutput, rows: TextRows, tokenizer: Any, padding: int) -> GenerateOutput:
    """Cut finished canvases where their texts end, decode them, and collect the output.

    Args:
        output: the finished canvases.
        rows: the rows before the first step.
        tokenizer: decodes, or None for no texts.
        padding: id behind the end of a text; see `rows.padding_id`.
    """
    sequences = output.tokens.clone()
    token_ids: list[list[int]] = []
    texts: list[str] = []
    reasons: list[str] = []
    for b, end in enumerate(rows.ends):
        ids = ints(sequences[b, end.begin :])
        cut = end.cut(ids)
        token_ids.append(ids[: cut.kept])
        reasons.append(cut.reason)
        if tokenizer is not None:
            texts.append(end.text(ids, cut))
        behind = rows.canvases.editable[b].clone()
        behind[: end.begin + cut.last] = False
        sequences[b, behind] = padding
    return GenerateOutput(
        sequences=sequences,
        texts=None if tokenizer is None else texts,
        token_ids=token_ids,
        nfe=output.nfe,
        work=output.work,
        shared=output.shared,
        steps=output.steps,
        seeds=[RowSeed(seed) for seed in rows.canvases.seeds],
        logprobs=output.logprob.clone(),
        finish_reasons=reasons,
        prompt_lengths=[len(prompt.ids) for prompt in rows.prompts],
        trajectory=output.trajectory,
        cache=output.cache,
        forced=output.forced,
    )


def equal_rows(output: GenerateOutput, alike: str | None, numbers: Sequence[int]) -> str | None:
    """Return a warning if the sequences of a prompt are equal because no noise of theirs differs.

    Args:
        output: the result.
        alike: why, and what to change; None where texts can be equal by chance only.
        numbers: of the prompt of each row, in the whole call.

    Returns:
        The warning, or None if there is nothing to tell.
    """
    if alike is None:
        return None
    for number in dict.fromkeys(numbers):
        same = [ids for ids, own in zip(output.token_ids, numbers, strict=True) if own == number]
        if len(same) > 1 and all(ids == same[0] for ids in same):
            return (
                f"The {len(same)} sequences of prompt {number} are equal: {alike}; else "
                "num_return_sequences=1 saves the work."
            )
    return None

"""Store a run of an unmask-only sampler compactly, for training loops.

    z_k = mask where step_index >= k, else tokens        the canvas that step k saw

Wang et al. 2025, "Revolutionizing Reinforcement Learning Framework for Diffusion Large Language
Models", arXiv:2509.06949 (TraceRL), whose step map this is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from dlm_sampling.engine.request import RunOutput
from dlm_sampling.engine.trajectory import StepEvent, Trajectory
from dlm_sampling.likelihood.scoring import Views
from dlm_sampling.types import Drawn


@dataclass(frozen=True)
class Rollout:
    """Hold the step that wrote each token, in about 18 bytes per position.

    Fields:
        tokens: int64 [B, L], the canvas as the last step left it: text behind an end-of-text is
            kept, because the model saw it.
        attention_mask: bool [B, L], False at padding.
        editable: bool [B, L], positions that the run could write.
        step_index: int32 [B, L], loop step that wrote the token; -1 at fixed positions, and where
            the row stopped before it wrote anything.
        logprob: [B, L], log-probability of each token under the law that it was drawn from.
        seeds: one per row.
        nfe: int64 [B], forward passes of the run.
        argmax: bool [B, L], tokens that the run took as the argmax whatever the temperature, whose
            log-probability is 0; None: none.
        cache: the approximate cache that the run was sampled with, whose law `logprob` is of;
            None: none.
    """

    tokens: Tensor
    attention_mask: Tensor
    editable: Tensor
    step_index: Tensor
    logprob: Tensor
    seeds: tuple[int, ...]
    nfe: Tensor
    argmax: Tensor | None = None
    cache: str | None = None

    @classmethod
    def from_output(cls, output: RunOutput, seeds: Sequence[int] | None = None) -> Rollout:
        """Make the rollout of a run that kept its trajectory.

        Args:
            output: of `generate` or `sample`, called with return_trajectory=True.
            seeds: labels of the rows in place of the seeds of the run, one per row.

        Raises:
            ValueError: there is no trajectory, `seeds` has another length, a token was written
                twice (by remasking, or noise without a mask) or came from another law than the
                model's at its canvas, or blocks were hidden by causal_blocks.
        """
        trajectory = trajectory_of(output)
        seeds, rows = output.seeds if seeds is None else seeds, len(output.nfe)
        if len(seeds) != rows:
            raise ValueError(f"seeds has {len(seeds)} entries for {rows} rows: give one per row.")
        final = output.tokens
        device = final.device
        step_index = torch.full(final.shape, -1, dtype=torch.int32, device=device)
        tokens = final.clone()
        logprob = torch.zeros(final.shape, dtype=torch.float32, device=device)
        argmax = torch.zeros_like(trajectory.editable, device=device)
        for event in trajectory.events:
            certain = argmax_of(trajectory, event).to(device)
            at, written = event.rows.to(device), event.written.to(device)
            _check_once(event, written, step_index[at])
            step_index[at] = step_index[at].masked_fill(written, event.iteration)
            tokens[at] = torch.where(written, event.tokens.to(device), tokens[at])
            drawn = event.logprob.to(device)
            logprob = logprob.to(torch.promote_types(logprob.dtype, drawn.dtype))
            logprob[at] = torch.where(written, drawn.to(logprob.dtype), logprob[at])
            argmax[at] |= certain
        return cls(
            tokens,
            attention_of(trajectory).to(device),
            trajectory.editable.to(device),
            step_index,
            logprob,
            tuple(seeds),
            output.nfe,
            argmax,
            trajectory.cache,
        )

    def select(self, rows: Tensor) -> Rollout:
        """Return some rows (int64 [n]) in the given order, to shuffle or split a batch."""
        at = rows.to(self.tokens.device)
        return Rollout(
            self.tokens[at],
            self.attention_mask[at],
            self.editable[at],
            self.step_index[at],
            self.logprob[at],
            tuple(self.seeds[i] for i in cast("list[int]", rows.tolist())),
            self.nfe[rows.to(self.nfe.device)],
            None if self.argmax is None else self.argmax[at],
            self.cache,
        )

    def views(self, mask_token_id: int, shrink: int, device: torch.device) -> Iterator[Views]:
        """Yield the canvases to score, the k-th steps of all rows together."""
        tokens, attention, editable, step = (
            x.to(device) for x in (self.tokens, self.attention_mask, self.editable, self.step_index)
        )
        ordered, order = step.sort(1)
        later = (ordered.diff(dim=1) > 0) & (ordered[:, :-1] >= 0)
        rank = torch.nn.functional.pad(later.long().cumsum(1), (1, 0))
        never = step < 0
        group = torch.zeros_like(rank).scatter(1, order, rank) // shrink
        group = group.masked_fill(never, -1)
        for k in range(int(group.max()) + 1 if group.numel() else 0):
            where = group == k
            rows = where.any(1).nonzero().squeeze(1)
            hidden = editable & ((group >= k) | never)
            canvas = tokens.masked_fill(hidden, mask_token_id)
            argmax = None if self.argmax is None else self.argmax.to(device)[rows]
            views = Views(rows, canvas[rows], tokens[rows], where[rows], attention[rows])
            yield views._replace(argmax=argmax)


def trajectory_of(output: RunOutput) -> Trajectory:
    """Return the steps of a run.

    Raises:
        TypeError: the object is not the output of a run.
        ValueError: the steps were not kept.
    """
    try:
        found = output.trajectory
    except AttributeError:
        raise TypeError(
            f"run is a {type(output).__name__}: must be the output of `generate` or `sample` with "
            "return_trajectory=True, its trajectory, or a Rollout."
        ) from None
    if found is None:
        raise ValueError("output has no trajectory: call with return_trajectory=True.")
    return found


def attention_of(trajectory: Trajectory) -> Tensor:
    """Return the attention mask of a run, bool [B, L], False at padding."""
    known = trajectory.attention_mask
    return torch.ones_like(trajectory.editable) if known is None else known.bool()


def argmax_of(trajectory: Trajectory, event: StepEvent) -> Tensor:
    """Return the tokens of a step that were taken as the argmax, bool [A, L].

    Raises:
        ValueError: a token of the step came from a law that its canvas does not give.
    """
    if event.drawn is None:
        return torch.zeros_like(event.written)
    known = event.written & trajectory.editable.to(event.rows.device)[event.rows]
    if trajectory.masked:  # positions still unknown after the step were masked again, not drawn
        known = known & ~event.unknown
    other = known & (event.drawn == Drawn.OTHERWISE)
    if bool(other.any()):
        row, position = (int(i) for i in other.nonzero()[0])
        raise ValueError(
            f"run was sampled by {trajectory.sampler}, which drew the token of row "
            f"{int(event.rows[row])}, position {position} (step {event.iteration}) from another "
            "law than the model's at the canvas before the step, such as a mean of several "
            "predictions, several stages, or a step of noise without a mask: its log-probability "
            "cannot be recomputed. Sample with 'llada', 'ancestral' or another sampler that draws "
            "from the law of the canvas, on a model of masks."
        )
    return known & (event.drawn == Drawn.ARGMAX)


def _check_once(event: StepEvent, written: Tensor, step_index: Tensor) -> None:
    """Check that each token was written once, and that no column was hidden."""
    twice = written & ((step_index >= 0) | event.unknown.to(written.device))
    if bool(twice.any()):
        row, position = (int(i) for i in twice.nonzero()[0])
        raise ValueError(
            f"row {int(event.rows[row])} wrote position {position} more than once (step "
            f"{event.iteration}): a Rollout holds one step per token. Replay the output with its "
            "trajectory instead."
        )
    if event.horizon is not None:
        raise ValueError(
            "causal_blocks hid later blocks from the model, which a Rollout does not tell. Replay "
            "the output with its trajectory instead."
        )

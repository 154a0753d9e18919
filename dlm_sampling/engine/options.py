"""What a run is asked for, and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dlm_sampling.engine.trajectory import StepCallback, Trajectory
from dlm_sampling.types import TokenLaw


@dataclass(frozen=True)
class SampleOutput:
    """What `sample` returns.

    Fields:
        tokens: int64 [B, L], the finished canvas.
        logprob: [B, L], log-probability of each token when it was last written, 0 at fixed
            positions.
        nfe: int64 [B], forward passes per row.
        steps: int64 [B], loop steps per row.
        ended: bool [B], whether the row stopped at an end-of-text token.
        trajectory: the steps, if asked for.
    """

    tokens: Tensor
    logprob: Tensor
    nfe: Tensor
    steps: Tensor
    ended: Tensor
    trajectory: Trajectory | None


@dataclass(frozen=True)
class RunOptions:
    """What `sample` was asked for beyond the canvases; see its arguments."""

    law: TokenLaw
    guidance_scale: float
    stop_token_ids: tuple[int, ...]
    every_step: bool
    suppress_mask: bool
    causal_blocks: bool
    callback: StepCallback | None
    return_trajectory: bool

"""Run PC-Sampler with a linear position bias instead of the exponential one.

    score_i = (1 - lambda) (c_i - min c) / (max c - min c) + lambda (W - j_i) / W
    c_i = min{-p(v_i) ln(f(v_i) + 1e-9), alpha}

Minimum and maximum run over the whole block of W columns, written positions included.  Huang et al.
2025, arXiv:2508.13021, ablation of the position bias, and the released
`generate_with_linear_position`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dlm_sampling.errors import unknown_choice
from dlm_sampling.ops import any_or_assume, top_k_positions
from dlm_sampling.samplers.base import DelayingSampler, block_total, even_quota, reveal
from dlm_sampling.samplers.frequencies.token_frequencies import (
    FrequencySource,
    TokenFrequencies,
    log_content,
    read_frequencies,
)
from dlm_sampling.samplers.parts.checks import above_zero, unit_interval
from dlm_sampling.samplers.parts.quotas import block_width
from dlm_sampling.samplers.registry import register
from dlm_sampling.types import Canvas, Clock, Predict, RandomSource, Step, TokenLaw

_SMALLEST_RANGE = 1e-9


class PCLinearState(NamedTuple):
    """Hold the size of the block, and the bias of its positions."""

    total: Tensor  # int64 [B], unknown positions when the block began
    near: Tensor  # float64 [B, L], (W - j) / W


@dataclass(frozen=True)
class PCLinear(DelayingSampler[PCLinearState]):
    """Write the quota of this step where calibrated confidence plus nearness is largest.

    At written positions c reads the probability of the model's drawn token there and the frequency
    of the token that stands there, as released.

    Fields:
        lambd: weight of the position, in [0, 1].
        alpha: > 0, the largest content score.
        frequencies: background frequencies; None is the uniform table, see `PCSampler`.

    NFE: min(steps, tokens) per block.
    """

    lambd: float = 0.25
    alpha: float = 10.0
    frequencies: TokenFrequencies | None = None

    law = TokenLaw(temperature=0.0)
    paper = "Huang et al. 2025, arXiv:2508.13021"
    nfe = "min(steps, tokens)"

    def __post_init__(self) -> None:
        super().__post_init__()
        unit_interval("lambd", self.lambd, "the released scripts use 0, 0.25 or 0.5")
        above_zero("alpha", self.alpha, "the released scripts use 10")

    @property
    def exact(self) -> bool:
        """Return False: the score is read at the drawn token."""
        return False

    def init(self, canvas: Canvas) -> PCLinearState:
        """Return zeros; positions are counted when a row enters a block."""
        near = torch.zeros_like(canvas.tokens, dtype=torch.float64)
        return PCLinearState(torch.zeros_like(canvas.start), near)

    def step(
        self,
        state: PCLinearState,
        canvas: Canvas,
        clock: Clock,
        predict: Predict,
        rng: RandomSource,
    ) -> tuple[PCLinearState, Step]:
        """Write the quota of this step."""
        eligible = canvas.eligible
        total = block_total(state.total, canvas, clock)
        quota = even_quota(total, clock)
        where = canvas.editable & (quota > 0).unsqueeze(1)
        draw = predict(canvas.tokens, canvas.unknown_fraction).draw(where, rng)
        token = torch.where(eligible, draw.token, canvas.tokens)
        content = log_content(draw.log_confidence, token, self.frequencies, self.alpha).exp()
        near = _nearness(canvas) if any_or_assume(clock.step == 0) else state.near
        score = (1.0 - self.lambd) * _unit_range(content, canvas.editable) + self.lambd * near
        where = top_k_positions(self.rank(score, draw, eligible), eligible, quota)
        return PCLinearState(total, near), reveal(canvas, where, draw)


def _unit_range(content: Tensor, inside: Tensor) -> Tensor:
    """Return (c - min) / (max - min) over the block, [B, L]."""
    low = content.masked_fill(~inside, math.inf).amin(1, keepdim=True)
    high = content.masked_fill(~inside, -math.inf).amax(1, keepdim=True)
    return (content - low) / (high - low).clamp_min(_SMALLEST_RANGE)


def _nearness(canvas: Canvas) -> Tensor:
    """Return (W - j) / W, float64 [B, L], for the W columns up to the block's last editable one."""
    column = torch.arange(canvas.tokens.shape[1], device=canvas.tokens.device)
    j = column - canvas.start.unsqueeze(1)
    width = block_width(canvas).clamp_min(1).unsqueeze(1)
    return (width - j).double() / width.double()


PC_LINEAR_LAMBDAS: dict[str, float] = {
    "humaneval": 0.25,
    "mbpp": 0.25,
    "math500": 0.25,
    "gsm8k": 0.25,
    "gpqa": 0.25,
    "sudoku": 0.0,
    "countdown": 0.5,
}
"""lambda of the authors' scripts by task; alpha is 10 throughout."""


def pc_linear(
    lambd: float = 0.25,
    alpha: float = 10.0,
    frequencies: FrequencySource = None,
    delayed_ids: tuple[int, ...] = (),
) -> PCLinear:
    """Run PC-Sampler's linear variant: normalised calibrated confidence plus a position bias."""
    return PCLinear(lambd, alpha, read_frequencies(frequencies), delayed_ids=delayed_ids)


def pc_linear_preset(task: str, frequencies: FrequencySource = None) -> PCLinear:
    """Return the linear variant with the authors' lambda for a task of `PC_LINEAR_LAMBDAS`.

    Raises:
        ValueError: unknown task.
    """
    if task not in PC_LINEAR_LAMBDAS:
        raise unknown_choice("task", task, PC_LINEAR_LAMBDAS)
    return pc_linear(PC_LINEAR_LAMBDAS[task], 10.0, frequencies)


register("pc-linear", pc_linear)

"""Write LLaDA's quota by confidence calibrated by token frequency and position: PC-Sampler.

    score_i = exp(-lambda j_i) min{-p(v_i) ln(f(v_i) + 1e-9), alpha}

v_i is the drawn token, p its probability under the model's own law, f its frequency in a reference
corpus and j_i the position.  Huang et al. 2025, "PC-Sampler: Position-Aware Calibration of Decoding
Bias in Masked Diffusion Models", arXiv:2508.13021, and the released `generate_with_pc_sampler`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from dlm_sampling.errors import unknown_choice
from dlm_sampling.ops import top_k_positions
from dlm_sampling.samplers.base import DelayingSampler, block_total, even_quota, reveal
from dlm_sampling.samplers.frequencies.token_frequencies import (
    FrequencySource,
    TokenFrequencies,
    log_content,
    read_frequencies,
)
from dlm_sampling.samplers.parts.checks import above_zero, at_least
from dlm_sampling.samplers.registry import register
from dlm_sampling.types import Canvas, Clock, Predict, RandomSource, Step, TokenLaw

PositionOrigin = Literal["block", "prompt"]


class PCState(NamedTuple):
    """Hold the size of the block, and where the text to write begins."""

    total: Tensor  # int64 [B], unknown positions when the block began
    first: Tensor  # int64 [B], first editable column of the row


@dataclass(frozen=True)
class PCSampler(DelayingSampler[PCState]):
    """Write the quota of this step where the discounted, calibrated confidence is largest.

    Scores are compared as logarithms, so that positions far from the start, whose weight underflows
    in the released code, keep their order.

    Fields:
        lambd: lambda >= 0, the decay along the positions; 0 ignores them, large values go left to
            right.
        alpha: > 0, the largest content score.
        frequencies: background frequencies, see `TokenFrequencies.load` and `count_tokens`; None is
            the uniform table with its constant divided out: the content score is p itself.
        position_origin: count j from the first column of the "block" (released) or from the end of
            the "prompt" (the paper); within a block the two scores differ by a factor, so the order
            is the same.

    NFE: min(steps, tokens) per block.
    """

    lambd: float = 0.25
    alpha: float = 10.0
    frequencies: TokenFrequencies | None = None
    position_origin: PositionOrigin = "block"

    law = TokenLaw(temperature=0.0)
    paper = "Huang et al. 2025, arXiv:2508.13021"
    nfe = "min(steps, tokens)"

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("lambd", self.lambd, 0.0, "the released scripts use 0 to 1")
        above_zero("alpha", self.alpha, "the released scripts use 10")

    @property
    def exact(self) -> bool:
        """Return False: the score is read at the drawn token."""
        return False

    def init(self, canvas: Canvas) -> PCState:
        """Return zeros, and the first editable column, where the first block begins."""
        return PCState(torch.zeros_like(canvas.start), canvas.editable.long().argmax(1))

    def step(
        self, state: PCState, canvas: Canvas, clock: Clock, predict: Predict, rng: RandomSource
    ) -> tuple[PCState, Step]:
        """Write the quota of this step."""
        eligible = canvas.eligible
        state = state._replace(total=block_total(state.total, canvas, clock))
        quota = even_quota(state.total, clock)
        where = eligible & (quota > 0).unsqueeze(1)
        draw = predict(canvas.tokens, canvas.unknown_fraction).draw(where, rng)
        content = log_content(draw.log_confidence, draw.token, self.frequencies, self.alpha)
        score = self.rank(content - self.lambd * self.position(state, canvas), draw, eligible)
        return state, reveal(canvas, top_k_positions(score, eligible, quota), draw)

    def position(self, state: PCState, canvas: Canvas) -> Tensor:
        """Return the index j of every column, float64 [B, L]."""
        origin = canvas.start if self.position_origin == "block" else state.first
        column = torch.arange(
            canvas.tokens.shape[1], dtype=torch.float64, device=canvas.tokens.device
        )
        return column - origin.unsqueeze(1).double()


class PCPreset(NamedTuple):
    """Hold settings of the authors' scripts for LLaDA-8B-Instruct, one token per step."""

    lambd: float
    alpha: float
    max_new_tokens: int
    shots: int


PC_PRESETS: dict[str, PCPreset] = {
    "humaneval": PCPreset(0.25, 10.0, 256, 0),
    "mbpp": PCPreset(0.25, 10.0, 128, 0),
    "math500": PCPreset(0.25, 10.0, 1024, 0),
    "gsm8k": PCPreset(0.25, 10.0, 256, 4),
    "gpqa": PCPreset(0.25, 10.0, 256, 5),
    "sudoku": PCPreset(0.0, 10.0, 128, 0),
    "countdown": PCPreset(1.0, 10.0, 128, 0),
}


def pc_sampler(
    lambd: float = 0.25,
    alpha: float = 10.0,
    frequencies: FrequencySource = None,
    position_origin: PositionOrigin = "block",
    delayed_ids: tuple[int, ...] = (),
) -> PCSampler:
    """Run PC-Sampler: confidence calibrated by token frequencies and discounted along the text."""
    table = read_frequencies(frequencies)
    return PCSampler(lambd, alpha, table, position_origin, delayed_ids=delayed_ids)


def pc_preset(task: str, frequencies: FrequencySource = None) -> PCSampler:
    """Return PC-Sampler with the authors' lambda and alpha for a task of `PC_PRESETS`.

    Raises:
        ValueError: unknown task.
    """
    if task not in PC_PRESETS:
        raise unknown_choice("task", task, PC_PRESETS)
    return pc_sampler(PC_PRESETS[task].lambd, PC_PRESETS[task].alpha, frequencies)


register("pc-sampler", pc_sampler)

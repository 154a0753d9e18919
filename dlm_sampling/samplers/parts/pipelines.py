"""Choose the positions that the blocks of a pipeline write in a step."""

from __future__ import annotations

import torch
from torch import Tensor

from dlm_sampling.ops import threshold_positions
from dlm_sampling.samplers.parts.checks import at_least, unit_interval
from dlm_sampling.types import Canvas, Pipeline


def check_pipeline(pipeline: Pipeline) -> None:
    """Refuse numbers out of range, under the names of a sampler's fields.

    Raises:
        ValueError: `add` is not in (0, 1], `activate` not in [0, 1], or `buffer` is below 1.
    """
    if not 0.0 < pipeline.add <= 1.0:
        raise ValueError(
            f"add={pipeline.add}: must be in (0, 1]; 1 is one block at a time, try 0.7."
        )
    unit_interval("activate", pipeline.activate, "the released value is 0.95")
    if pipeline.buffer is not None:
        at_least("buffer", pipeline.buffer, 1, "1 is one block at a time, None has no bound")


def positions_in_blocks(score: Tensor, canvas: Canvas, threshold: float, *, every: bool) -> Tensor:
    """Return the eligible positions with score >= threshold, and the best of blocks that must move.

    Among equal scores the first position is the best.  Without a pipeline the canvas is one block.

    Args:
        score: [B, L].
        canvas: the canvas, with the blocks under way.
        threshold: one number.
        every: whether every active block must write, or only the first block under way.

    Returns:
        bool [B, L].
    """
    eligible, blocks = canvas.eligible, canvas.blocks
    if blocks is None:
        return threshold_positions(score, eligible, threshold)
    number = blocks.number
    if not every:
        front = eligible & (number == blocks.first.unsqueeze(1))
        return (eligible & (score >= threshold)) | threshold_positions(score, front, threshold)
    passed = eligible & (score >= threshold)
    low, none = score.masked_fill(~eligible, -torch.inf), (len(score), blocks.most)
    top = low.new_full(none, -torch.inf).scatter_reduce(1, number, low, "amax")
    best = eligible & (low == top.gather(1, number))
    length = score.shape[1]
    place = torch.arange(length, device=score.device).masked_fill(~best, length)
    first = place.new_full(none, length).scatter_reduce(1, number, place, "amin")
    return passed | (best & blocks.active & (place == first.gather(1, number)))

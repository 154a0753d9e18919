"""Cut each row into blocks, which are written from left to right, and share out the steps."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dlm_sampling.samplers.contract import check_answer
from dlm_sampling.types import Sampler

Columns = NDArray[np.int64]

UNLIMITED = 2**62
"""The loop steps of a block that ends when a sampler says so."""


class BlockPlan(NamedTuple):
    """Hold the blocks of every row and their planned steps.

    K is the largest number of blocks of a row; a row uses its first `number` entries.
    """

    start: Tensor  # int64 [B, K], first column of each block
    stop: Tensor  # int64 [B, K], one past its last column
    steps: Tensor  # int64 [B, K], planned steps
    number: Tensor  # int64 [B], blocks of the row


def plan_blocks(
    editable: Tensor,
    block_length: int | None,
    steps: int | None,
    *,
    origin: Tensor | None = None,
    steps_per_block: int | None = None,
) -> BlockPlan:
    """Cut the editable span of each row into blocks of `block_length` columns.

    The last block may be shorter.  Of S planned steps and N editable positions, block k gets
    floor(S c_{k+1} / N) - floor(S c_k / N) steps, but at least one; c_k counts the editable
    positions before block k.  If K equal blocks divide S, each gets S / K, which is LLaDA's rule.

    Args:
        editable: bool [B, L].
        block_length: columns per block, or None for one block.
        steps: steps over all blocks of a row, or None for one step per editable position.
        origin: int64 [B], column of each row's first token after padding; block boundaries are then
            multiples of block_length from that column, prompt included (SDAR, LLaDA2).  None:
            blocks start at the first editable column.
        steps_per_block: steps of every block, of any size; replaces `steps`.

    Raises:
        ValueError: block_length, steps or steps_per_block below 1.
    """
    if steps_per_block is not None and steps_per_block < 1:
        raise ValueError(
            f"steps_per_block={steps_per_block}: need at least 1, or None to share `steps`."
        )
    if block_length is not None and block_length < 1:
        raise ValueError(
            f"block_length={block_length}: must be at least 1, or None for a single block."
        )
    if steps is not None and steps < 1:
        raise ValueError(f"steps={steps}: need at least 1. For a single parallel pass use steps=1.")
    # NumPy: sixty operators on a few numbers, which would each be a launch on a GPU.
    here = editable.cpu().numpy()
    first, width = _span(here)
    length = np.maximum(width, 1) if block_length is None else np.full_like(width, block_length)
    if block_length is not None and origin is not None:
        shift = (first - origin.cpu().numpy()) % length
        first, width = first - shift, width + shift
    count = int((-(-width // length)).max(initial=1))
    start = first[:, None] + length[:, None] * np.arange(count)
    stop = np.minimum(start + length[:, None], (first + width)[:, None])
    done = np.pad(here.cumsum(1), ((0, 0), (1, 0)))  # editable positions left of each column
    before, after = _at(done, start), _at(done, stop)
    total = done[:, -1:]
    planned, most = total if steps is None else steps, np.maximum(total, 1)
    share = np.maximum(planned * after // most - planned * before // most, 1)
    if steps_per_block is not None:
        share = np.full_like(share, steps_per_block)
    used = after > before
    order = np.argsort(~used, axis=1, kind="stable")  # blocks with nothing to write go last
    parts = (*(np.take_along_axis(part, order, 1) for part in (start, stop, share)), used.sum(1))
    return BlockPlan(*(torch.from_numpy(part).to(editable.device) for part in parts))


def in_whole_blocks(plan: BlockPlan, attention: Tensor, width: int) -> BlockPlan:
    """Let every block reach to the end of the network's block, with the fixed tokens behind it.

    They are no positions to write; they see those that are, so that passes compute them together.

    Args:
        plan: blocks that begin at multiples of `width` from the row's first token.
        attention: bool [B, L], False at padding.
        width: columns per block of the network.
    """
    origin = attention.long().argmax(1, keepdim=True)
    stop = origin + (plan.stop - origin + width - 1).div(width, rounding_mode="floor") * width
    return plan._replace(stop=stop.minimum(origin + attention.sum(1, keepdim=True)))


def check_canvas(canvas_length: int, block_length: int | None, align_blocks: bool) -> None:
    """Check that the block settings suit a network that only writes whole canvases.

    Such a network predicts the last `canvas_length` columns of its input.

    Raises:
        ValueError: `block_length` differs from `canvas_length`, or `align_blocks` is set.
    """
    if block_length not in (None, canvas_length):
        raise ValueError(
            f"block_length={block_length}: this network writes canvases of {canvas_length} "
            "columns; leave block_length out."
        )
    if align_blocks:
        raise ValueError(
            "align_blocks=True: the canvases of this network begin where the prompt ends; "
            "use False."
        )


def check_whole(plan: BlockPlan, canvas_length: int) -> None:
    """Check that every block of every row is a whole canvas; see `check_canvas`.

    Raises:
        ValueError: a block is not `canvas_length` columns wide.
    """
    used = torch.arange(plan.start.shape[1], device=plan.start.device) < plan.number.unsqueeze(1)
    short = ((plan.stop - plan.start != canvas_length) & used).any(1)
    if bool(short.any()):
        row = int(short.nonzero()[0])
        raise ValueError(
            f"editable: row {row} has a block that is not {canvas_length} columns wide; this "
            f"network writes whole canvases, so make each row's span of positions to write a "
            f"multiple of {canvas_length}."
        )


def _span(editable: NDArray[np.bool_]) -> tuple[Columns, Columns]:
    """Return first column and width of each row's editable span, int64 [B] each."""
    first = editable.argmax(1)
    last = editable.shape[1] - 1 - editable[:, ::-1].argmax(1)
    return first, np.where(editable.any(1), last - first + 1, 0)


def _at(done: Columns, column: Columns) -> Columns:
    """Return the number of editable positions left of each column, int64 [B, K]."""
    return np.take_along_axis(done, column.clip(0, done.shape[1] - 1), 1)


def step_limits(sampler: Sampler[Any], steps: Tensor) -> Tensor:
    """Return the loop steps of every block, int64 [B, K]; `UNLIMITED` if adaptive."""
    planned = steps.cpu().numpy()
    limits = np.empty_like(planned)
    for number in np.unique(planned):
        length = check_answer(sampler, "schedule_length", sampler.schedule_length(int(number)))
        limits[planned == number] = UNLIMITED if length is None else length
    return torch.from_numpy(limits).to(steps.device)
